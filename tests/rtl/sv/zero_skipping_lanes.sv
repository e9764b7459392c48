// Lanes that work through the same tiles: none begins a tile before all have done the last one.
//
// Operands are written first; with `run` the lanes work.  Outputs tell what the coming edge does.
module zero_skipping_lanes #(
    parameter int unsigned UNITS = 1,
    parameter int unsigned SIMD = 1,
    localparam int unsigned SLOTS = UNITS * SIMD
) (
    input  logic               clk,
    input  logic               rst,
    input  logic               write,
    input  logic        [ 3:0] write_memory,
    input  logic        [31:0] write_unit,
    input  logic        [31:0] write_address,
    input  logic        [15:0] write_data,
    input  logic               run,
    output logic               valid        [SLOTS],  // a product is added
    output logic        [31:0] place        [SLOTS],  // to this accumulator of the lane,
    output logic signed [31:0] value        [SLOTS],  // of this value
    output logic               busy         [UNITS],
    output logic               stall        [UNITS],  // the lane waits for others
    output logic               done,
    input  logic        [31:0] read_unit,
    input  logic        [31:0] read_place,
    output logic signed [31:0] read_value
);
  logic work[UNITS];
  logic [31:0] tile[UNITS];
  logic signed [31:0] sum[UNITS];

  // The tile in hand is the first that any lane still works on, so that a tile without work takes no cycle.
  logic [31:0] current;
  always_comb begin
    current = '1;
    done = 1;
    for (int unsigned u = 0; u < UNITS; u++) begin
      if (work[u] && tile[u] < current) current = tile[u];
      if (work[u]) done = 0;
    end
  end

  for (genvar u = 0; u < UNITS; u++) begin : g_lane
    assign busy[u] = run && work[u] && tile[u] == current;
    assign stall[u] = run && !done && !busy[u];
    zero_skipping_lane #(.SIMD) lane (
        .clk, .rst, .write(write && write_unit == u), .write_memory, .write_address, .write_data,
        .enable(busy[u]), .work(work[u]), .tile(tile[u]),
        .valid(valid[u*SIMD+:SIMD]), .place(place[u*SIMD+:SIMD]), .value(value[u*SIMD+:SIMD]),
        .read_place, .read_value(sum[u]));
  end

  always_comb begin
    read_value = 0;
    for (int unsigned u = 0; u < UNITS; u++) if (read_unit == u) read_value = sum[u];
  end
endmodule
