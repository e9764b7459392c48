// One place of a column's shift register that is loaded from all rows at once.
module serial_drain_cell (
    input  logic               clk,
    input  logic               rst,
    input  logic               load,
    input  logic signed [31:0] total,
    input  logic signed [31:0] above,
    output logic signed [31:0] head
);
  always_ff @(posedge clk) begin
    if (rst) head <= 0;
    else head <= load ? total : above;
  end
endmodule
