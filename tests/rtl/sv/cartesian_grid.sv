// Elements that meet at a barrier: none begins an input channel before all have done the last one.
//
// Operands, the plane and the phases of a channel are written first; with `run` the elements work.  Outputs tell what
// the coming edge does; slots are the banks of each element.
module cartesian_grid #(
    parameter int unsigned UNITS = 1,
    parameter int unsigned F = 2,
    parameter int unsigned I = 2,
    parameter int unsigned BANKS = 8,
    localparam int unsigned SLOTS = UNITS * BANKS
) (
    input  logic               clk,
    input  logic               rst,
    input  logic               write,
    input  logic        [ 3:0] write_memory,  // 0 outputs_x, outputs_y, phases; then the elements'
    input  logic        [31:0] write_unit,
    input  logic        [31:0] write_address,
    input  logic        [31:0] write_data,
    input  logic               run,
    output logic               valid        [SLOTS],
    output logic        [31:0] place        [SLOTS],
    output logic signed [31:0] value        [SLOTS],
    output logic               busy         [UNITS],
    output logic               stall        [UNITS],  // the element's lists are held up by its banks
    output logic               done,
    input  logic        [31:0] read_unit,
    input  logic        [31:0] read_place,
    output logic signed [31:0] read_value
);
  logic [31:0] outputs_x;
  logic [31:0] outputs_y;
  logic [31:0] phases;
  always_ff @(posedge clk) begin
    if (write && write_memory == 0 && write_address == 0) outputs_x <= write_data;
    if (write && write_memory == 0 && write_address == 1) outputs_y <= write_data;
    if (write && write_memory == 0 && write_address == 2) phases <= write_data;
  end

  logic work[UNITS];
  logic [31:0] job[UNITS];
  logic [31:0] channel[UNITS];
  logic signed [31:0] sum[UNITS];

  // The channel in hand is the first that any element still works on, so that one without products takes no cycle.
  logic [31:0] current;
  always_comb begin
    current = '1;
    done = 1;
    read_value = 0;
    for (int unsigned u = 0; u < UNITS; u++) begin
      if (work[u] && channel[u] < current) current = channel[u];
      if (work[u]) done = 0;
      if (read_unit == u) read_value = sum[u];
    end
  end

  for (genvar u = 0; u < UNITS; u++) begin : g_element
    assign channel[u] = job[u] / phases;
    assign busy[u] = run && work[u] && channel[u] == current;
    cartesian_element #(.F, .I, .BANKS) element (
        .clk, .rst, .write(write && write_unit == u), .write_memory, .write_address, .write_data,
        .outputs_x, .outputs_y, .enable(busy[u]), .work(work[u]), .job(job[u]), .held(stall[u]),
        .valid(valid[u*BANKS+:BANKS]), .place(place[u*BANKS+:BANKS]), .value(value[u*BANKS+:BANKS]),
        .read_place, .read_value(sum[u]));
  end
endmodule
