// Output-stationary machine: sequencer and array, with a serial or an overlapped drain.
//
// Operands are asked for by tile and step and answered before the next edge, which samples them: an ideal memory.
// Rows and columns are asked for at the same edges; both requests are ports so that all machines look alike.
module output_stationary #(
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
    input  logic               hurry,
    input  logic        [31:0] tiles,
    input  logic        [31:0] length,
    output logic               row_request,
    output logic        [31:0] row_tile,
    output logic        [31:0] row_step,
    input  logic        [ 7:0] row_operand  [ROWS],
    output logic               col_request,
    output logic        [31:0] col_tile,
    output logic        [31:0] col_step,
    input  logic        [ 7:0] col_operand  [COLS],
    output logic               result_valid [COLS],
    output logic signed [31:0] result       [COLS],
    output logic               done
);
  logic last;
  logic result_last[COLS];

  accumulating_sequencer #(.ROWS, .OVERLAPPED) sequencer (
      .clk, .rst, .hurry, .tiles, .length,
      .drained(result_valid[COLS-1] && result_last[COLS-1]),
      .stream(row_request), .stream_tile(row_tile), .stream_step(row_step), .last, .done);
  assign col_request = row_request;
  assign col_tile = row_tile;
  assign col_step = row_step;

  accumulating_array #(
      .ROWS, .COLS, .ACTIVATION_HOP, .PSUM_HOP, .MULTIPLIER_LATENCY, .ACCUMULATOR_LATENCY, .INPUT_REGISTER,
      .OUTPUT_REGISTER, .OVERLAPPED
  ) array (
      .clk, .rst, .tag({row_request, row_step == 0, last}), .row_operand, .col_operand,
      .result_valid, .result_last, .result);
endmodule
