// Prefix population count: how many bits of a mask are set below `index`, which is the address of that bit's value
// among packed values.
module ones_below #(
    parameter int unsigned WIDTH = 8
) (
    input  logic [WIDTH-1:0] mask,
    input  logic [     31:0] index,
    output logic [     31:0] count
);
  always_comb begin
    count = 0;
    for (int unsigned i = 0; i < WIDTH; i++) if (i < index) count = count + 32'(mask[i]);
  end
endmodule
