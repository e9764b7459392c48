// Priority encoder: the lowest set bit of a mask at or above `from`.
module first_set #(
    parameter int unsigned WIDTH = 8
) (
    input  logic [WIDTH-1:0] mask,
    input  logic [     31:0] from,
    output logic             found,
    output logic [     31:0] index
);
  always_comb begin
    found = 0;
    index = 0;
    for (int unsigned i = 0; i < WIDTH; i++) begin
      if (!found && mask[i] && i >= from) begin
        found = 1;
        index = i;
      end
    end
  end
endmodule
