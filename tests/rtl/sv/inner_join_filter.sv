// One filter of a unit, for every filter group in turn: masks by chunk and the packed weights that they tell apart.
//
// A base points at the packed weights of the chunk in hand: it moves on with every chunk, returns to the filter's first
// weight for another position, and stays where it is when the next filter group's weights begin.
module inner_join_filter #(
    parameter int unsigned CHUNK = 8,
    parameter int unsigned CHUNKS = 16,
    parameter int unsigned GROUPS = 16
) (
    input  logic              clk,
    input  logic              rst,
    input  logic              write,
    input  logic       [ 3:0] write_memory,
    input  logic       [31:0] write_address,
    input  logic       [ 7:0] write_data,
    input  logic              leave,
    input  logic              new_position,
    input  logic              new_filters,
    input  logic       [31:0] filter_group,
    input  logic       [31:0] row,
    input  logic       [31:0] bit_of_chunk,
    output logic [CHUNK-1:0]  mask,
    output logic signed [7:0] weight,
    output logic              present
);
  mask_memory #(.CHUNK, .CHUNKS) masks (
      .clk, .write(write && write_memory == 3), .write_address, .write_data, .row, .mask);

  logic [31:0] base;
  logic [31:0] filter_base;
  logic [31:0] rank;
  logic [31:0] ones;
  ones_below #(.WIDTH(CHUNK)) prefix (.mask, .index(bit_of_chunk), .count(rank));
  ones_below #(.WIDTH(CHUNK)) whole (.mask, .index(CHUNK), .count(ones));

  logic [31:0] address[1];
  logic [7:0] read[1];
  assign address[0] = base + rank;
  assign weight = read[0];
  memory #(.DEPTH(CHUNKS * CHUNK), .WIDTH(8)) weights (
      .clk, .write(write && write_memory == 4), .write_address, .write_data, .address, .data(read));

  logic [31:0] group[1];
  logic there[1];
  assign group[0] = filter_group;
  assign present = there[0];
  memory #(.DEPTH(GROUPS), .WIDTH(1)) presence (
      .clk, .write(write && write_memory == 5), .write_address, .write_data(write_data[0]), .address(group),
      .data(there));

  always_ff @(posedge clk) begin
    if (rst) begin
      base <= 0;
      filter_base <= 0;
    end else if (leave) begin
      base <= new_position && !new_filters ? filter_base : base + ones;
      if (new_filters) filter_base <= base + ones;
    end
  end
endmodule
