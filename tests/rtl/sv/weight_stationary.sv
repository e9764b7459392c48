// Weight-stationary machine: sequencer and array.  Input stationary is the same machine with the operands exchanged;
// N < M makes it an n:m array, whose words carry an index.
//
// Operands are asked for by tile and step and answered before the next edge, which samples them: an ideal memory.
module weight_stationary #(
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
    localparam int unsigned WORD = 8 + $clog2(M)
) (
    input  logic               clk,
    input  logic               rst,
    input  logic               hurry,
    input  logic [       31:0] tiles,
    input  logic [       31:0] length,
    output logic               row_request,
    output logic [       31:0] row_tile,
    output logic [       31:0] row_step,
    input  logic [        7:0] row_operand  [ROWS/N*M],
    output logic               col_request,
    output logic [       31:0] col_tile,
    output logic [       31:0] col_step,
    input  logic [   WORD-1:0] col_operand  [    COLS],
    output logic               result_valid [    COLS],
    output logic signed [31:0] result       [    COLS],
    output logic               done
);
  logic last;
  logic result_last[COLS];

  stationary_sequencer #(.ROWS, .WEIGHT_BUFFERS) sequencer (
      .clk, .rst, .hurry, .tiles, .length,
      .drained(result_valid[COLS-1] && result_last[COLS-1]),
      .load(col_request), .load_tile(col_tile), .load_row(col_step),
      .stream(row_request), .stream_tile(row_tile), .stream_step(row_step), .last, .done);

  // Tiles alternate between the banks.
  stationary_array #(
      .ROWS, .COLS, .ACTIVATION_HOP, .PSUM_HOP, .MULTIPLIER_LATENCY, .INPUT_REGISTER, .OUTPUT_REGISTER,
      .WEIGHT_BUFFERS, .N, .M, .WORD
  ) array (
      .clk, .rst, .tag({row_request, last, row_tile[0]}), .row_operand,
      .load(col_request), .load_bank(col_tile[0]), .col_operand, .result_valid, .result_last, .result);
endmodule
