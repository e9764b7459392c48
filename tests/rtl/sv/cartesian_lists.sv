// The front end of an element: walks its lists and offers a block of F weights times I activations with every product.
//
// A job is one input channel (and phase of the strides) of one group of output channels; jobs without a product are passed
// over without a cycle.  The block stays while it is not accepted: that is the back-pressure.  Weights run fastest.
module cartesian_lists #(
    parameter int unsigned F = 2,
    parameter int unsigned I = 2,
    parameter int unsigned JOBS = 48,
    parameter int unsigned ACTIVATIONS = 256,
    parameter int unsigned WEIGHTS = 512
) (
    input  logic               clk,
    input  logic               rst,
    // 1 where activation lists start, 2 activations {x, y, value}, 3 where weight lists start, 4 weights {k, r, s, value}
    input  logic               write,
    input  logic        [ 3:0] write_memory,
    input  logic        [31:0] write_address,
    input  logic        [31:0] write_data,
    input  logic        [31:0] outputs_x,
    input  logic        [31:0] outputs_y,
    output logic               work,
    output logic        [31:0] job,
    output logic               offered    [F*I],  // the product exists and its output is in the plane
    output logic        [ 7:0] k          [F*I],
    output logic        [31:0] x          [F*I],
    output logic        [31:0] y          [F*I],
    output logic signed [31:0] product    [F*I],
    input  logic               accept
);
  // --- the next job with a product
  logic [15:0] activation_start[JOBS+1];  // a list ends where the next one starts
  logic [15:0] weight_start[JOBS+1];
  always_ff @(posedge clk) begin
    if (write && write_memory == 1 && write_address <= JOBS) activation_start[write_address] <= write_data[15:0];
    if (write && write_memory == 3 && write_address <= JOBS) weight_start[write_address] <= write_data[15:0];
  end
  logic [JOBS-1:0] useful;
  logic [31:0] from;  // jobs below are done
  for (genvar j = 0; j < JOBS; j++) begin : g_job
    assign useful[j] = activation_start[j+1] != activation_start[j] && weight_start[j+1] != weight_start[j];
  end
  first_set #(.WIDTH(JOBS)) next (.mask(useful), .from, .found(work), .index(job));

  // --- the block in hand: how much of both lists is done
  logic [31:0] activations_done;
  logic [31:0] weights_done;
  logic [31:0] activation_count;
  logic [31:0] weight_count;
  logic last_weights;
  logic last_activations;
  assign activation_count = 32'(activation_start[job+1]) - 32'(activation_start[job]);
  assign weight_count = 32'(weight_start[job+1]) - 32'(weight_start[job]);
  assign last_weights = weights_done + F >= weight_count;
  assign last_activations = activations_done + I >= activation_count;
  always_ff @(posedge clk) begin
    if (rst) begin
      from <= 0;
      activations_done <= 0;
      weights_done <= 0;
    end else if (accept) begin
      weights_done <= last_weights ? 0 : weights_done + F;
      if (last_weights) activations_done <= last_activations ? 0 : activations_done + I;
      if (last_weights && last_activations) from <= job + 1;
    end
  end

  // --- F + I values make F * I products and as many coordinates
  logic [31:0] activation_address[I];
  logic [31:0] weight_address[F];
  logic [23:0] activation[I];
  logic [31:0] weight[F];
  for (genvar i = 0; i < I; i++) begin : g_activation
    assign activation_address[i] = 32'(activation_start[job]) + activations_done + i;
  end
  for (genvar f = 0; f < F; f++) begin : g_weight
    assign weight_address[f] = 32'(weight_start[job]) + weights_done + f;
  end
  memory #(.DEPTH(ACTIVATIONS), .WIDTH(24), .READS(I)) activations (
      .clk, .write(write && write_memory == 2), .write_address, .write_data(write_data[23:0]), .address(activation_address),
      .data(activation));
  memory #(.DEPTH(WEIGHTS), .WIDTH(32), .READS(F)) weights (
      .clk, .write(write && write_memory == 4), .write_address, .write_data, .address(weight_address), .data(weight));

  for (genvar i = 0; i < I; i++) begin : g_row
    for (genvar f = 0; f < F; f++) begin : g_product
      localparam int unsigned P = i * F + f;
      // Both are counted in strides; what falls off the plane at its low end wraps to a coordinate beyond its high end.
      assign x[P] = 32'(activation[i][23:16]) - 32'(weight[f][23:16]);
      assign y[P] = 32'(activation[i][15:8]) - 32'(weight[f][15:8]);
      assign k[P] = weight[f][31:24];
      assign product[P] = 32'($signed(activation[i][7:0])) * 32'($signed(weight[f][7:0]));
      assign offered[P] = activations_done + i < activation_count && weights_done + f < weight_count &&
                         x[P] < outputs_x && y[P] < outputs_y;
    end
  end
endmodule
