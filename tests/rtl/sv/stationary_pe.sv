// One element of the weight-stationary array: it holds a word per bank, multiplies what passes from the left with
// the bank that the stream names, and adds to the sum that comes from above.
//
// A word is {index, value}: the index chooses among the M values that a row carries (no index where M is 1).
// Load command and word move down exactly as late as sums do, so that loading is a wave that follows the stream
// and never overtakes it.
module stationary_pe #(
    parameter int unsigned ACTIVATION_HOP = 1,
    parameter int unsigned PSUM_HOP = 1,
    parameter int unsigned MULTIPLIER_LATENCY = 0,
    parameter int unsigned WEIGHT_BUFFERS = 2,
    parameter int unsigned M = 1,
    parameter int unsigned WORD = 8
) (
    input  logic               clk,
    input  logic               rst,
    // from the left and on to the right: the row's values and the tag {valid, last, bank} of their vector
    input  logic [    M*8-1:0] row_in,
    input  logic [        2:0] tag_in,
    output logic [    M*8-1:0] row_out,
    output logic [        2:0] tag_out,
    // from above and on downwards: load command, its bank and the word that is shifted in
    input  logic               load_in,
    input  logic               bank_in,
    input  logic [   WORD-1:0] word_in,
    output logic               load_out,
    output logic               bank_out,
    output logic [   WORD-1:0] word_out,
    // partial sums, from above and on downwards
    input  logic signed [31:0] sum_in,
    output logic signed [31:0] sum_out
);
  // --- the banks: a shift register down the column, one for each weight buffer
  logic [WORD-1:0] bank[WEIGHT_BUFFERS];
  logic [WORD-1:0] displaced;  // leaves the bank that is loaded, for the element below
  logic [WORD-1:0] held;  // what the stream multiplies with

  for (genvar b = 0; b < WEIGHT_BUFFERS; b++) begin : g_bank
    always_ff @(posedge clk) begin
      if (rst) bank[b] <= '0;
      else if (load_in && (WEIGHT_BUFFERS == 1 || bank_in == b[0])) bank[b] <= word_in;
    end
  end
  assign displaced = bank_in ? bank[WEIGHT_BUFFERS-1] : bank[0];
  assign held = tag_in[0] ? bank[WEIGHT_BUFFERS-1] : bank[0];

  delay #(.DEPTH(PSUM_HOP), .WIDTH(WORD + 2)) down (
      .clk, .rst, .d({load_in, bank_in, displaced}), .q({load_out, bank_out, word_out}));
  delay #(.DEPTH(ACTIVATION_HOP), .WIDTH(M * 8 + 3)) right (
      .clk, .rst, .d({row_in, tag_in}), .q({row_out, tag_out}));

  // --- multiply and add
  logic signed [ 7:0] streamed;
  logic signed [ 7:0] value;
  logic signed [15:0] product;
  logic signed [15:0] ready;
  logic signed [31:0] sum;

  if (M == 1) begin : g_dense
    assign streamed = row_in;
  end else begin : g_choose
    logic [WORD-9:0] index;
    assign index = held[WORD-1:8];
    assign streamed = row_in[32'(index)*8+:8];
  end
  assign value = held[7:0];
  assign product = 16'(streamed) * 16'(value);
  delay #(.DEPTH(MULTIPLIER_LATENCY), .WIDTH(16)) multiplier (.clk, .rst, .d(product), .q(ready));
  assign sum = sum_in + 32'(ready);
  delay #(.DEPTH(PSUM_HOP), .WIDTH(32)) adder (.clk, .rst, .d(sum), .q(sum_out));
endmodule
