// Bitmasks of CHUNK bits, written eight bits at a time, lowest first.
module mask_memory #(
    parameter int unsigned CHUNK = 8,
    parameter int unsigned CHUNKS = 16
) (
    input  logic             clk,
    input  logic             write,
    input  logic [     31:0] write_address,  // in bytes
    input  logic [      7:0] write_data,
    input  logic [     31:0] row,
    output logic [CHUNK-1:0] mask
);
  localparam int unsigned BYTES = CHUNK / 8;
  if (CHUNK % 8 != 0) $error("a chunk must be whole bytes");

  logic [31:0] address[BYTES];
  logic [7:0] bytes[BYTES];
  memory #(.DEPTH(CHUNKS * BYTES), .WIDTH(8), .READS(BYTES)) words (
      .clk, .write, .write_address, .write_data, .address, .data(bytes));
  for (genvar b = 0; b < BYTES; b++) begin : g_byte
    assign address[b] = row * BYTES + b;
    assign mask[b*8+:8] = bytes[b];
  end
endmodule
