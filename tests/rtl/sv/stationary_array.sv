// ROWS x COLS elements that hold words while vectors stream through: the skew at the edges and the grid.
//
// Vectors enter whole; the skew registers delay row r by r hops of the partial sums and column c's words by c hops of
// the activations.  Rows of one group of N share the M values among which their words choose.
module stationary_array #(
    parameter int unsigned ROWS = 4,
    parameter int unsigned COLS = 4,
    parameter int unsigned ACTIVATION_HOP = 1,
    parameter int unsigned PSUM_HOP = 1,
    parameter int unsigned MULTIPLIER_LATENCY = 0,
    parameter int unsigned INPUT_REGISTER = 0,
    parameter int unsigned OUTPUT_REGISTER = 0,
    parameter int unsigned WEIGHT_BUFFERS = 2,
    parameter int unsigned N = 1,
    parameter int unsigned M = 1,
    parameter int unsigned WORD = 8
) (
    input  logic               clk,
    input  logic               rst,
    input  logic [        2:0] tag,                        // {valid, last, bank} of the vector that enters
    input  logic [        7:0] row_operand  [ROWS/N*M],
    input  logic               load,
    input  logic               load_bank,
    input  logic [   WORD-1:0] col_operand  [    COLS],
    output logic               result_valid [    COLS],
    output logic               result_last  [    COLS],
    output logic signed [31:0] result       [    COLS]
);
  if (ROWS % N != 0) $error("rows must be whole groups of N");

  // [row][col] holds what enters an element; one more column or row receives what leaves the last one.
  logic [M*8-1:0] row[ROWS][COLS+1];
  logic [2:0] row_tag[ROWS][COLS+1];
  logic loads[ROWS+1][COLS];
  logic banks[ROWS+1][COLS];
  logic [WORD-1:0] word[ROWS+1][COLS];
  logic signed [31:0] sum[ROWS+1][COLS];

  for (genvar r = 0; r < ROWS; r++) begin : g_row
    logic [M*8-1:0] choices;
    for (genvar i = 0; i < M; i++) begin : g_choice
      assign choices[i*8+:8] = row_operand[r/N*M+i];
    end
    delay #(.DEPTH(r * PSUM_HOP + INPUT_REGISTER), .WIDTH(M * 8 + 3)) skew (
        .clk, .rst, .d({choices, tag}), .q({row[r][0], row_tag[r][0]}));
    for (genvar c = 0; c < COLS; c++) begin : g_col
      stationary_pe #(
          .ACTIVATION_HOP, .PSUM_HOP, .MULTIPLIER_LATENCY, .WEIGHT_BUFFERS, .M, .WORD
      ) pe (
          .clk, .rst,
          .row_in(row[r][c]), .tag_in(row_tag[r][c]), .row_out(row[r][c+1]), .tag_out(row_tag[r][c+1]),
          .load_in(loads[r][c]), .bank_in(banks[r][c]), .word_in(word[r][c]),
          .load_out(loads[r+1][c]), .bank_out(banks[r+1][c]), .word_out(word[r+1][c]),
          .sum_in(sum[r][c]), .sum_out(sum[r+1][c]));
    end
  end

  for (genvar c = 0; c < COLS; c++) begin : g_edge
    delay #(.DEPTH(c * ACTIVATION_HOP + INPUT_REGISTER), .WIDTH(WORD + 2)) skew (
        .clk, .rst, .d({load, load_bank, col_operand[c]}), .q({loads[0][c], banks[0][c], word[0][c]}));
    assign sum[0][c] = '0;
    delay #(.DEPTH(OUTPUT_REGISTER), .WIDTH(32)) out (.clk, .rst, .d(sum[ROWS][c]), .q(result[c]));
    // A result takes as long as its products, sums and the output register take from the bottom row's inputs.
    delay #(.DEPTH(MULTIPLIER_LATENCY + PSUM_HOP + OUTPUT_REGISTER), .WIDTH(2)) tags (
        .clk, .rst, .d(row_tag[ROWS-1][c][2:1]), .q({result_valid[c], result_last[c]}));
  end
endmodule
