// One element of the output-stationary array: operands pass from the left and from above, their products add up
// here until the vector that is tagged last has been added.
module accumulating_pe #(
    parameter int unsigned ACTIVATION_HOP = 1,
    parameter int unsigned PSUM_HOP = 1,
    parameter int unsigned MULTIPLIER_LATENCY = 0,
    parameter int unsigned ACCUMULATOR_LATENCY = 1
) (
    input  logic               clk,
    input  logic               rst,
    input  logic signed [ 7:0] row_in,
    input  logic        [ 2:0] tag_in,  // {valid, first, last} of the pair of operands
    output logic signed [ 7:0] row_out,
    output logic        [ 2:0] tag_out,
    input  logic signed [ 7:0] col_in,
    output logic signed [ 7:0] col_out,
    output logic               done,
    output logic signed [31:0] total
);
  delay #(.DEPTH(ACTIVATION_HOP), .WIDTH(11)) right (.clk, .rst, .d({row_in, tag_in}), .q({row_out, tag_out}));
  delay #(.DEPTH(PSUM_HOP), .WIDTH(8)) down (.clk, .rst, .d(col_in), .q(col_out));

  logic signed [15:0] product;
  logic signed [15:0] ready;
  logic valid;
  logic first;
  logic last;
  assign product = 16'(row_in) * 16'(col_in);
  delay #(.DEPTH(MULTIPLIER_LATENCY), .WIDTH(19)) multiplier (
      .clk, .rst, .d({product, tag_in}), .q({ready, valid, first, last}));

  // The accumulator's register is the first stage; an adder of more stages settles in those behind it.
  logic signed [31:0] accumulator;
  logic finished;
  always_ff @(posedge clk) begin
    if (rst) begin
      accumulator <= 0;
      finished <= 0;
    end else begin
      if (valid) accumulator <= (first ? 32'sd0 : accumulator) + 32'(ready);
      finished <= valid && last;
    end
  end
  delay #(.DEPTH(ACCUMULATOR_LATENCY - 1), .WIDTH(33)) settle (
      .clk, .rst, .d({finished, accumulator}), .q({done, total}));
endmodule
