// DEPTH registers in series, a wire where DEPTH is 0: one parameter then says how many registers a path has.
module delay #(
    parameter int unsigned DEPTH = 1,
    parameter int unsigned WIDTH = 1
) (
    input  logic             clk,
    input  logic             rst,
    input  logic [WIDTH-1:0] d,
    output logic [WIDTH-1:0] q
);
  if (DEPTH == 0) begin : g_wire
    logic unused;
    assign unused = &{1'b0, clk, rst};
    assign q = d;
  end else begin : g_registers
    logic [WIDTH-1:0] stage[DEPTH];
    // Data is reset as well as flags: what is read before it is written is then zero in every simulator.
    always_ff @(posedge clk) begin
      stage[0] <= rst ? '0 : d;
      for (int unsigned i = 1; i < DEPTH; i++) stage[i] <= rst ? '0 : stage[i-1];
    end
    assign q = stage[DEPTH-1];
  end
endmodule
