// Decides at every edge which row of words is loaded and which vector is streamed, for `tiles` tiles back to back.
//
// A tile streams when its words are in.  With two weight buffers the next tile's words are loaded from the edge
// on at which a tile starts to stream; with one only when the last tile's results have all left the array.
// `hurry` takes these two waits out, so that a test can show that each of them is needed.
module stationary_sequencer #(
    parameter int unsigned ROWS = 4,
    parameter int unsigned WEIGHT_BUFFERS = 2
) (
    input  logic        clk,
    input  logic        rst,
    input  logic        hurry,
    input  logic [31:0] tiles,
    input  logic [31:0] length,    // vectors per tile
    input  logic        drained,   // a tile's last result is visible
    output logic        load,
    output logic [31:0] load_tile,
    output logic [31:0] load_row,
    output logic        stream,
    output logic [31:0] stream_tile,
    output logic [31:0] stream_step,
    output logic        last,
    output logic        done
);
  logic [31:0] completed;  // tiles whose last result has been visible before
  logic [31:0] completed_now;
  logic [31:0] begun;  // tiles whose stream has begun, at this edge at the latest
  logic words_in;
  logic bank_free;

  assign completed_now = completed + 32'(drained);
  assign done = completed_now == tiles;

  assign words_in = load_tile > stream_tile || (hurry && stream_tile != 0);
  assign stream = stream_step != 0 || (stream_tile < tiles && words_in);
  assign last = stream_step == length - 1;
  assign begun = stream_tile + 32'(stream);

  assign bank_free = WEIGHT_BUFFERS == 2 || hurry ? begun >= load_tile : completed_now >= load_tile;
  assign load = load_row != 0 || (load_tile < tiles && bank_free);

  always_ff @(posedge clk) begin
    if (rst) begin
      completed <= 0;
      load_tile <= 0;
      load_row <= 0;
      stream_tile <= 0;
      stream_step <= 0;
    end else begin
      completed <= completed_now;
      if (load) begin
        load_row <= load_row == ROWS - 1 ? 0 : load_row + 1;
        if (load_row == ROWS - 1) load_tile <= load_tile + 1;
      end
      if (stream) begin
        stream_step <= last ? 0 : stream_step + 1;
        if (last) stream_tile <= stream_tile + 1;
      end
    end
  end
endmodule
