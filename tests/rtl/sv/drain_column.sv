// The way out of one column: results leave at the bottom, last row first, once the column's last operand has left it.
module drain_column #(
    parameter int unsigned ROWS = 4,
    parameter int unsigned PSUM_HOP = 1,
    parameter int unsigned OVERLAPPED = 1
) (
    input  logic               clk,
    input  logic               rst,
    input  logic               done  [ROWS],
    input  logic signed [31:0] total [ROWS],
    output logic               valid,
    output logic               last,
    output logic signed [31:0] result
);
  // The last operand leaves the bottom row PSUM_HOP registers after it was used there.
  logic start;
  delay #(.DEPTH(PSUM_HOP - 1), .WIDTH(1)) passed (.clk, .rst, .d(done[ROWS-1]), .q(start));

  logic [31:0] position;  // shifts so far, ROWS: nothing to shift
  assign valid = position < ROWS;
  assign last = position == ROWS - 1;
  always_ff @(posedge clk) begin
    if (rst) position <= ROWS;
    else if (start) position <= 0;
    else if (valid) position <= position + 1;
  end

  logic signed [31:0] head[ROWS+1];
  assign head[0] = '0;  // above the top row
  for (genvar r = 0; r < ROWS; r++) begin : g_row
    if (OVERLAPPED == 1) begin : g_overlapped
      // Rows above the number of shifts so far have given all that they had of this tile.
      overlapped_drain_cell #(.PLACES(PSUM_HOP)) cell_ (
          .clk, .rst, .take(done[r]), .total(total[r]),
          .shift(valid && $signed(position) <= r), .refill($signed(position) < r), .above(head[r]), .head(head[r+1]));
    end else begin : g_serial
      serial_drain_cell cell_ (.clk, .rst, .load(start), .total(total[r]), .above(head[r]), .head(head[r+1]));
    end
  end
  if (OVERLAPPED == 0 && ROWS > 1) begin : g_unused
    logic unused;
    logic [ROWS-2:0] flags;
    for (genvar r = 0; r + 1 < ROWS; r++) begin : g_flag
      assign flags[r] = done[r];
    end
    assign unused = &{1'b0, flags};
  end
  assign result = head[ROWS];
endmodule
