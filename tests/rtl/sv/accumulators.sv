// Sums that PORTS products are added to in one cycle, all in different places; none has a sum before its first product.
module accumulators #(
    parameter int unsigned PORTS = 1,
    parameter int unsigned PLACES = 8
) (
    input  logic               clk,
    input  logic               rst,
    input  logic               add        [PORTS],
    input  logic        [31:0] place      [PORTS],
    input  logic signed [31:0] value      [PORTS],
    input  logic        [31:0] read_place,
    output logic signed [31:0] read_value
);
  logic signed [31:0] sum[PLACES];
  logic [PLACES-1:0] begun;

  always_ff @(posedge clk) begin
    if (rst) begin
      begun <= '0;
    end else begin
      for (int unsigned p = 0; p < PORTS; p++) begin
        if (add[p] && place[p] < PLACES) begin
          begun[place[p]] <= 1;
          sum[place[p]] <= (begun[place[p]] ? sum[place[p]] : 0) + value[p];
        end
      end
    end
  end
  assign read_value = read_place < PLACES && begun[read_place] ? sum[read_place] : 0;
endmodule
