// The bank of an output, for 32 banks: {k2 ^ x1 ^ y1, x0, y0, k1, k0}; fewer banks take it modulo their number.
module accumulator_bank_of #(
    parameter int unsigned BANKS = 32
) (
    input  logic [ 2:0] k,
    input  logic [ 1:0] x,
    input  logic [ 1:0] y,
    output logic [31:0] bank
);
  assign bank = 32'({k[2] ^ x[1] ^ y[1], x[0], y[0], k[1:0]}) % BANKS;
endmodule
