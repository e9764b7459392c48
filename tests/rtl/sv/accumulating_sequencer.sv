// Decides at every edge which pair of vectors enters, for `tiles` tiles back to back.
//
// With a serial drain a tile starts when the last tile's results have all left; with an overlapped one it may follow at
// once, unless it would finish before the last tile's results have left the drain, ROWS edges after they entered it.
// `hurry` takes the wait out, so that a test can show that it is needed.
module accumulating_sequencer #(
    parameter int unsigned ROWS = 4,
    parameter int unsigned OVERLAPPED = 1
) (
    input  logic        clk,
    input  logic        rst,
    input  logic        hurry,
    input  logic [31:0] tiles,
    input  logic [31:0] length,   // vectors per tile
    input  logic        drained,  // a tile's last result is visible
    output logic        stream,
    output logic [31:0] stream_tile,
    output logic [31:0] stream_step,
    output logic        last,
    output logic        done
);
  logic [31:0] completed;  // tiles whose last result has been visible before
  logic [31:0] completed_now;
  logic [31:0] idle;  // edges without a vector since the last tile
  logic free;

  assign completed_now = completed + 32'(drained);
  assign done = completed_now == tiles;
  assign free = OVERLAPPED == 1 ? stream_tile == 0 || idle + length >= ROWS : completed_now == stream_tile;
  assign stream = stream_step != 0 || (stream_tile < tiles && (free || hurry));
  assign last = stream_step == length - 1;

  always_ff @(posedge clk) begin
    if (rst) begin
      completed <= 0;
      idle <= 0;
      stream_tile <= 0;
      stream_step <= 0;
    end else begin
      completed <= completed_now;
      idle <= stream ? 0 : idle + 1;
      if (stream) begin
        stream_step <= last ? 0 : stream_step + 1;
        if (last) stream_tile <= stream_tile + 1;
      end
    end
  end
endmodule
