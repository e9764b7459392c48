// One element: a block's products go to the accumulator banks of their outputs, one into every bank per cycle.
//
// Products that meet in a bank wait, lowest first, and the lists are held until the block has no product left: a block
// takes as many cycles as its fullest bank has products, and at least one.
module cartesian_element #(
    parameter int unsigned F = 2,
    parameter int unsigned I = 2,
    parameter int unsigned BANKS = 8,
    parameter int unsigned PLACES = 512
) (
    input  logic               clk,
    input  logic               rst,
    input  logic               write,
    input  logic        [ 3:0] write_memory,
    input  logic        [31:0] write_address,
    input  logic        [31:0] write_data,
    input  logic        [31:0] outputs_x,
    input  logic        [31:0] outputs_y,
    input  logic               enable,
    output logic               work,
    output logic        [31:0] job,
    output logic               held,
    output logic               valid        [BANKS],
    output logic        [31:0] place        [BANKS],
    output logic signed [31:0] value        [BANKS],
    input  logic        [31:0] read_place,
    output logic signed [31:0] read_value
);
  localparam int unsigned PRODUCTS = F * I;
  logic offered[PRODUCTS];
  logic [7:0] k[PRODUCTS];
  logic [31:0] x[PRODUCTS];
  logic [31:0] y[PRODUCTS];
  logic signed [31:0] product[PRODUCTS];
  cartesian_lists #(.F, .I) lists (
      .clk, .rst, .write, .write_memory, .write_address, .write_data, .outputs_x, .outputs_y,
      .work, .job, .offered, .k, .x, .y, .product, .accept(enable && !held));

  // --- what is left of the block
  logic begun;  // some of the block has been added before
  logic [PRODUCTS-1:0] waiting;
  logic [PRODUCTS-1:0] left;
  logic [PRODUCTS-1:0] rest;
  logic [31:0] bank[PRODUCTS];
  for (genvar p = 0; p < PRODUCTS; p++) begin : g_product
    assign left[p] = begun ? waiting[p] : offered[p];
    accumulator_bank_of #(.BANKS) banks (.k(k[p][2:0]), .x(x[p][1:0]), .y(y[p][1:0]), .bank(bank[p]));
  end
  assign held = enable && rest != 0;
  always_ff @(posedge clk) begin
    if (rst) begin
      begun <= 0;
      waiting <= '0;
    end else if (enable) begin
      begun <= held;
      waiting <= rest;
    end
  end

  // --- every bank takes its first
  logic [PRODUCTS-1:0] taken[BANKS];
  for (genvar b = 0; b < BANKS; b++) begin : g_bank
    logic [PRODUCTS-1:0] mine;
    logic found;
    logic [31:0] index;
    for (genvar p = 0; p < PRODUCTS; p++) begin : g_mine
      assign mine[p] = left[p] && bank[p] == b;
    end
    first_set #(.WIDTH(PRODUCTS)) arbiter (.mask(mine), .from(0), .found, .index);
    assign taken[b] = PRODUCTS'(found) << index;
    assign valid[b] = enable && found;
    assign place[b] = (32'(k[index]) * outputs_x + x[index]) * outputs_y + y[index];
    assign value[b] = product[index];
  end
  always_comb begin
    rest = left;
    for (int unsigned b = 0; b < BANKS; b++) rest = rest & ~taken[b];
  end
  accumulators #(.PORTS(BANKS), .PLACES(PLACES)) sums (
      .clk, .rst, .add(valid), .place, .value, .read_place, .read_value);
endmodule
