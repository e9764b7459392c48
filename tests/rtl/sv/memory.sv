// Words that are written one at a time and read at READS addresses at once; an address beyond the last word reads zero.
module memory #(
    parameter int unsigned DEPTH = 8,
    parameter int unsigned WIDTH = 8,
    parameter int unsigned READS = 1
) (
    input  logic             clk,
    input  logic             write,
    input  logic [     31:0] write_address,
    input  logic [WIDTH-1:0] write_data,
    input  logic [     31:0] address      [READS],
    output logic [WIDTH-1:0] data         [READS]
);
  logic [WIDTH-1:0] word[DEPTH];
  always_ff @(posedge clk) if (write && write_address < DEPTH) word[write_address] <= write_data;
  for (genvar r = 0; r < READS; r++) begin : g_read
    assign data[r] = address[r] < DEPTH ? word[address[r]] : '0;
  end
endmodule
