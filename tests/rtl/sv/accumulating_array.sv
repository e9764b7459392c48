// ROWS x COLS accumulating elements with the skew at both edges and a drain under every column.
module accumulating_array #(
    parameter int unsigned ROWS = 4,
    parameter int unsigned COLS = 4,
    parameter int unsigned ACTIVATION_HOP = 1,
    parameter int unsigned PSUM_HOP = 1,
    parameter int unsigned MULTIPLIER_LATENCY = 0,
    parameter int unsigned ACCUMULATOR_LATENCY = 1,
    parameter int unsigned INPUT_REGISTER = 0,
    parameter int unsigned OUTPUT_REGISTER = 0,
    parameter int unsigned OVERLAPPED = 1
) (
    input  logic               clk,
    input  logic               rst,
    input  logic        [ 2:0] tag,                 // {valid, first, last} of the vectors that enter
    input  logic        [ 7:0] row_operand  [ROWS],
    input  logic        [ 7:0] col_operand  [COLS],
    output logic               result_valid [COLS],
    output logic               result_last  [COLS],
    output logic signed [31:0] result       [COLS]
);
  // [row][col] holds what enters an element; one more column or row receives what leaves the last one.
  logic [7:0] row[ROWS][COLS+1];
  logic [2:0] row_tag[ROWS][COLS+1];
  logic [7:0] col[ROWS+1][COLS];

  for (genvar r = 0; r < ROWS; r++) begin : g_skew
    delay #(.DEPTH(r * PSUM_HOP + INPUT_REGISTER), .WIDTH(11)) skew (
        .clk, .rst, .d({row_operand[r], tag}), .q({row[r][0], row_tag[r][0]}));
  end

  for (genvar c = 0; c < COLS; c++) begin : g_col
    logic done[ROWS];
    logic signed [31:0] total[ROWS];
    delay #(.DEPTH(c * ACTIVATION_HOP + INPUT_REGISTER), .WIDTH(8)) skew (
        .clk, .rst, .d(col_operand[c]), .q(col[0][c]));
    for (genvar r = 0; r < ROWS; r++) begin : g_row
      accumulating_pe #(.ACTIVATION_HOP, .PSUM_HOP, .MULTIPLIER_LATENCY, .ACCUMULATOR_LATENCY) pe (
          .clk, .rst,
          .row_in(row[r][c]), .tag_in(row_tag[r][c]), .row_out(row[r][c+1]), .tag_out(row_tag[r][c+1]),
          .col_in(col[r][c]), .col_out(col[r+1][c]), .done(done[r]), .total(total[r]));
    end

    logic valid;
    logic last;
    logic signed [31:0] bottom;
    drain_column #(.ROWS, .PSUM_HOP, .OVERLAPPED) drain (.clk, .rst, .done, .total, .valid, .last, .result(bottom));
    delay #(.DEPTH(OUTPUT_REGISTER), .WIDTH(34)) out (
        .clk, .rst, .d({valid, last, bottom}), .q({result_valid[c], result_last[c], result[c]}));
  end
endmodule
