// One unit: joins the bitmask of a broadcast chunk with those of its filters and multiplies one matching pair per cycle.
//
// The lowest match is encoded, and the ones below it in either mask address the packed values.  A unit of two filters
// works through the first, then the second.  It is `spent` in the cycle of its last match, or at once without any.
module inner_join_unit #(
    parameter int unsigned CHUNK = 8,
    parameter int unsigned FILTERS = 1,
    parameter int unsigned CHUNKS = 16,  // of all filter groups: masks that a unit holds for each filter
    parameter int unsigned ITEMS = 16
) (
    input  logic               clk,
    input  logic               rst,
    // the filters, written before the run: 3 masks, 8 bits at a time, 4 packed weights, 5 whether a filter is there
    input  logic               write,
    input  logic        [ 3:0] write_memory,
    input  logic        [31:0] write_address,
    input  logic        [ 7:0] write_data,
    // the broadcast
    input  logic               work,
    input  logic               fresh,                  // first cycle of the chunk
    input  logic               first_chunk,
    input  logic               last_chunk,
    input  logic               leave,                  // the cluster goes on after this cycle
    input  logic               new_position,           // ... to another position, from the filters' first chunk on
    input  logic               new_filters,            // ... to the next filter group
    input  logic        [31:0] filter_group,
    input  logic        [31:0] row,                    // chunks before this one in the filters' masks
    input  logic        [31:0] item,
    input  logic [CHUNK-1:0]   mask,
    output logic        [31:0] activation_rank,        // of the value among the chunk's packed ones
    input  logic signed [ 7:0] activation,
    output logic               found,
    output logic               member,
    output logic               spent,
    output logic               valid,
    output logic        [31:0] place,
    output logic signed [31:0] value,
    output logic               sum_valid    [FILTERS],
    output logic        [31:0] sum_place    [FILTERS],
    output logic signed [31:0] sum          [FILTERS],
    input  logic        [31:0] read_place,
    output logic signed [31:0] read_value
);
  // --- join: what is left to multiply of this chunk
  logic [CHUNK-1:0] masks[FILTERS];
  logic [FILTERS*CHUNK-1:0] left;
  logic [FILTERS*CHUNK-1:0] rest;
  logic [FILTERS*CHUNK-1:0] pending;
  logic [31:0] index;
  logic [31:0] bit_of_chunk;
  for (genvar f = 0; f < FILTERS; f++) begin : g_join
    assign left[f*CHUNK+:CHUNK] = fresh ? mask & masks[f] : pending[f*CHUNK+:CHUNK];
  end
  first_set #(.WIDTH(FILTERS * CHUNK)) encode (.mask(left), .from(0), .found, .index);
  assign bit_of_chunk = index % CHUNK;
  assign rest = left & ~((FILTERS * CHUNK)'(found) << index);
  assign spent = rest == 0;
  always_ff @(posedge clk) if (work) pending <= rest;

  // --- packed values of both operands
  logic signed [7:0] weight[FILTERS];
  logic present[FILTERS];
  ones_below #(.WIDTH(CHUNK)) activation_prefix (.mask, .index(bit_of_chunk), .count(activation_rank));
  for (genvar f = 0; f < FILTERS; f++) begin : g_filter
    inner_join_filter #(.CHUNK, .CHUNKS, .GROUPS(ITEMS)) filter (
        .clk, .rst, .write(write && write_address[31:16] == f), .write_memory, .write_address(32'(write_address[15:0])),
        .write_data, .leave(work && leave), .new_position, .new_filters, .filter_group, .row, .bit_of_chunk,
        .mask(masks[f]), .weight(weight[f]), .present(present[f]));
  end
  always_comb begin
    member = 0;
    for (int unsigned f = 0; f < FILTERS; f++) if (present[f]) member = 1;
  end

  // --- multiply and accumulate; sums of an item are written when its last chunk is done
  logic signed [31:0] partial[FILTERS];
  assign valid = work && found;
  assign place = index;
  assign value = 32'(activation) * 32'(weight[index/CHUNK]);
  for (genvar f = 0; f < FILTERS; f++) begin : g_sum
    assign sum[f] = (fresh && first_chunk ? 0 : partial[f]) + (valid && index / CHUNK == f ? value : 0);
    assign sum_valid[f] = work && leave && last_chunk && present[f];
    assign sum_place[f] = item * FILTERS + f;
    always_ff @(posedge clk) if (work) partial[f] <= sum[f];
  end
  accumulators #(.PORTS(FILTERS), .PLACES(ITEMS * FILTERS)) results (
      .clk, .rst, .add(sum_valid), .place(sum_place), .value(sum), .read_place, .read_value);
endmodule
