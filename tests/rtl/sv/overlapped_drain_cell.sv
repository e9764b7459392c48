// One row's place in the drain, taken as soon as the row has finished, so that the next tile may follow.
//
// A finished total waits until the last operand has passed the rows below; with several registers per hop the row
// may finish again before that, hence PLACES of them, oldest first.  A shift passes the oldest downwards.
module overlapped_drain_cell #(
    parameter int unsigned PLACES = 1
) (
    input  logic               clk,
    input  logic               rst,
    input  logic               take,
    input  logic signed [31:0] total,
    input  logic               shift,
    input  logic               refill,  // with shift: the row above passes its oldest to here
    input  logic signed [31:0] above,
    output logic signed [31:0] head
);
  logic signed [31:0] place[PLACES];
  logic signed [31:0] moved[PLACES];
  logic [31:0] used;
  logic [31:0] left;

  always_comb begin
    moved = place;
    left  = used;
    if (shift && refill) moved[0] = above;
    else if (shift) begin
      for (int unsigned i = 1; i < PLACES; i++) moved[i-1] = place[i];
      left = used - 1;
    end
    for (int unsigned i = 0; i < PLACES; i++) if (take && i == left) moved[i] = total;
  end

  always_ff @(posedge clk) begin
    for (int unsigned i = 0; i < PLACES; i++) place[i] <= rst ? 0 : moved[i];
    used <= rst ? 0 : left + 32'(take);
  end
  assign head = place[0];
endmodule
