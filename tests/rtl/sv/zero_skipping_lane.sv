// One lane: nonzero activations of a bitmask and packed values meet, SIMD at a time, the nonzero weights of their column.
//
// An activation whose column has no weights takes no cycle.  Positions of all tiles form one line, tile by tile, in each
// column by column, in each pixel by pixel; the lane names the tile of its next work and stands while it is not enabled.
module zero_skipping_lane #(
    parameter int unsigned SIMD = 1,
    parameter int unsigned TILES = 6,
    parameter int unsigned COLUMNS = 8,
    parameter int unsigned PIXELS = 4,
    parameter int unsigned FILTERS = 8
) (
    input  logic               clk,
    input  logic               rst,
    // the operands, written before the run: 1 mask, 2 packed activations, 3 where columns start, 4 weights
    input  logic               write,
    input  logic        [ 3:0] write_memory,
    input  logic        [31:0] write_address,
    input  logic        [15:0] write_data,
    input  logic               enable,
    output logic               work,               // something is left to multiply
    output logic        [31:0] tile,               // the tile that it belongs to
    output logic               valid       [SIMD],
    output logic        [31:0] place       [SIMD],
    output logic signed [31:0] value       [SIMD],
    input  logic        [31:0] read_place,
    output logic signed [31:0] read_value
);
  localparam int unsigned AREA = COLUMNS * PIXELS;
  localparam int unsigned LINE = TILES * AREA;

  // --- the next nonzero activation that meets a weight
  logic [LINE-1:0] live;  // 1: not zero
  logic [15:0] start[TILES*COLUMNS+1];  // of each column's weights; a column ends where the next one starts
  always_ff @(posedge clk) begin
    if (write && write_memory == 1 && write_address < LINE) live[write_address] <= write_data[0];
    if (write && write_memory == 3 && write_address <= TILES * COLUMNS) start[write_address] <= write_data;
  end

  logic [LINE-1:0] useful;
  logic [31:0] from;  // the line is done below this position
  logic [31:0] position;
  logic [31:0] column;
  for (genvar c = 0; c < TILES * COLUMNS; c++) begin : g_column
    assign useful[c*PIXELS+:PIXELS] = start[c+1] != start[c] ? live[c*PIXELS+:PIXELS] : '0;
  end
  first_set #(.WIDTH(LINE)) next (.mask(useful), .from, .found(work), .index(position));
  assign column = position / PIXELS;
  assign tile = position / AREA;

  logic [31:0] packed_address[1];
  logic [7:0] activation[1];
  ones_below #(.WIDTH(LINE)) prefix (.mask(live), .index(position), .count(packed_address[0]));
  memory #(.DEPTH(LINE), .WIDTH(8)) activations (
      .clk, .write(write && write_memory == 2), .write_address, .write_data(write_data[7:0]),
      .address(packed_address), .data(activation));

  // --- its column, SIMD weights a cycle
  logic [31:0] through;  // weights of the column that are done
  logic [31:0] count;
  logic [31:0] address[SIMD];
  logic [15:0] entry[SIMD];  // {filter, weight}
  assign count = 32'(start[column+1]) - 32'(start[column]);
  memory #(.DEPTH(TILES * COLUMNS * FILTERS), .WIDTH(16), .READS(SIMD)) weights (
      .clk, .write(write && write_memory == 4), .write_address, .write_data, .address, .data(entry));
  for (genvar s = 0; s < SIMD; s++) begin : g_slot
    assign address[s] = 32'(start[column]) + through + s;
    assign valid[s] = enable && through + s < count;
    assign place[s] = (tile * PIXELS + position % PIXELS) * FILTERS + 32'(entry[s][15:8]);
    assign value[s] = 32'($signed(activation[0])) * 32'($signed(entry[s][7:0]));
  end
  accumulators #(.PORTS(SIMD), .PLACES(TILES * PIXELS * FILTERS)) sums (
      .clk, .rst, .add(valid), .place, .value, .read_place, .read_value);

  logic last;
  assign last = through + SIMD >= count;
  always_ff @(posedge clk) begin
    if (rst) begin
      from <= 0;
      through <= 0;
    end else if (enable) begin
      from <= last ? position + 1 : position;
      through <= last ? 0 : through + SIMD;
    end
  end
endmodule
