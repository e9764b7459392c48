// Units behind one broadcast: each chunk of an item's activations goes to all units, the next one when all are spent.
//
// An item is a filter group at a position; positions run fastest, chunks within them.  Operands and the three extents
// are written first; with `run` the cluster works.  Outputs tell what the coming edge does: UNITS slots for products,
// then FILTERS for each unit with the sums that an item ends with.
module inner_join_cluster #(
    parameter int unsigned UNITS = 2,
    parameter int unsigned CHUNK = 8,
    parameter int unsigned FILTERS = 1,
    localparam int unsigned SLOTS = UNITS * (1 + FILTERS)
) (
    input  logic               clk,
    input  logic               rst,
    input  logic               write,
    input  logic        [ 3:0] write_memory,  // 0 extents, 1 masks of activations, 2 packed activations; then units'
    input  logic        [31:0] write_unit,
    input  logic        [31:0] write_address,
    input  logic        [15:0] write_data,
    input  logic               run,
    output logic               valid        [SLOTS],
    output logic        [31:0] place        [SLOTS],
    output logic signed [31:0] value        [SLOTS],
    output logic               busy         [UNITS],
    output logic               stall        [UNITS],  // the unit waits for others at the broadcast
    output logic               done,
    input  logic        [31:0] read_unit,
    input  logic        [31:0] read_place,
    output logic signed [31:0] read_value
);
  localparam int unsigned CHUNKS = 16;
  localparam int unsigned ITEMS = 16;

  logic [31:0] chunks;
  logic [31:0] positions;
  logic [31:0] filter_groups;
  always_ff @(posedge clk) begin
    if (write && write_memory == 0 && write_address == 0) chunks <= 32'(write_data);
    if (write && write_memory == 0 && write_address == 1) positions <= 32'(write_data);
    if (write && write_memory == 0 && write_address == 2) filter_groups <= 32'(write_data);
  end

  // --- which chunk of which item
  logic [31:0] chunk;
  logic [31:0] position;
  logic [31:0] filter_group;
  logic fresh;
  logic leave;
  logic last_chunk;
  logic new_filters;
  logic work;
  assign done = filter_group == filter_groups;
  assign work = run && !done;
  assign last_chunk = chunk + 1 == chunks;
  assign new_filters = last_chunk && position + 1 == positions;
  always_ff @(posedge clk) begin
    if (rst) begin
      chunk <= 0;
      position <= 0;
      filter_group <= 0;
      fresh <= 1;
    end else if (work) begin
      fresh <= leave;
      if (leave) begin
        chunk <= last_chunk ? 0 : chunk + 1;
        if (last_chunk) position <= new_filters ? 0 : position + 1;
        if (new_filters) filter_group <= filter_group + 1;
      end
    end
  end

  // --- the broadcast: a mask and packed activations, of which each unit picks by rank
  logic [CHUNK-1:0] mask;
  logic [31:0] base;  // of the chunk's packed activations
  logic [31:0] ones;
  logic [31:0] address[UNITS];
  logic [7:0] activation[UNITS];
  mask_memory #(.CHUNK, .CHUNKS) masks (
      .clk, .write(write && write_memory == 1), .write_address, .write_data(write_data[7:0]),
      .row(position * chunks + chunk), .mask);
  memory #(.DEPTH(CHUNKS * CHUNK), .WIDTH(8), .READS(UNITS)) activations (
      .clk, .write(write && write_memory == 2), .write_address, .write_data(write_data[7:0]), .address,
      .data(activation));
  ones_below #(.WIDTH(CHUNK)) whole (.mask, .index(CHUNK), .count(ones));
  always_ff @(posedge clk) begin
    if (rst) base <= 0;
    else if (work && leave) base <= new_filters ? 0 : base + ones;
  end

  // --- the units
  logic [31:0] rank[UNITS];
  logic found[UNITS];
  logic member[UNITS];
  logic spent[UNITS];
  logic signed [31:0] sum[UNITS];
  for (genvar u = 0; u < UNITS; u++) begin : g_unit
    assign address[u] = base + rank[u];
    inner_join_unit #(.CHUNK, .FILTERS, .CHUNKS, .ITEMS) unit (
        .clk, .rst, .write(write && write_unit == u), .write_memory, .write_address, .write_data(write_data[7:0]),
        .work, .fresh, .first_chunk(chunk == 0), .last_chunk, .leave, .new_position(last_chunk), .new_filters,
        .filter_group, .row(filter_group * chunks + chunk), .item(filter_group * positions + position),
        .mask, .activation_rank(rank[u]), .activation(activation[u]),
        .found(found[u]), .member(member[u]), .spent(spent[u]),
        .valid(valid[u]), .place(place[u]), .value(value[u]),
        .sum_valid(valid[UNITS+u*FILTERS+:FILTERS]), .sum_place(place[UNITS+u*FILTERS+:FILTERS]),
        .sum(value[UNITS+u*FILTERS+:FILTERS]), .read_place, .read_value(sum[u]));
  end

  logic any;
  always_comb begin
    any = 0;
    leave = 1;
    read_value = 0;
    for (int unsigned u = 0; u < UNITS; u++) begin
      if (found[u]) any = 1;
      if (!spent[u]) leave = 0;
      if (read_unit == u) read_value = sum[u];
    end
    for (int unsigned u = 0; u < UNITS; u++) begin
      busy[u] = work && found[u];
      stall[u] = work && member[u] && any && !found[u];
    end
  end
endmodule
