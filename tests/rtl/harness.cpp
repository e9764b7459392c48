// Clocks one Verilated machine through a run of tiles: an ideal memory answers its requests before each edge.
#include "Vtop.h"

#include <cstdint>
#include <memory>
#include <type_traits>

namespace {
// An unpacked port of the top module, and how many elements it has.
template <typename Port>
constexpr int width(const Port& port) {
    return sizeof(port) / sizeof(port[0]);
}

// An operand port that was not asked for carries noise: what samples it then is wrong, and the results show it.
template <typename Port, typename Value>
void drive(Port& port, const Value* values, unsigned& noise, unsigned mask) {
    for (int i = 0; i < width(port); i++) {
        noise = noise * 1664525u + 1013904223u;
        port[i] = values ? values[i] : noise >> 16 & mask;
    }
}
}  // namespace

// rows: [tiles][length][row ports]; cols: [tiles][col_steps][columns]; valid, result: [most_edges][columns].
// Returns the number of edges up to the one after which the last result is visible; most_edges where it never is.
extern "C" int run(int hurry, int tiles, int length, const uint8_t* rows, int col_steps, const uint16_t* cols,
                   int word_bits, int most_edges, uint8_t* valid, int32_t* result) {
    const auto context = std::make_unique<VerilatedContext>();
    const auto top = std::make_unique<Vtop>(context.get());
    unsigned noise = 1;
    top->hurry = hurry, top->tiles = tiles, top->length = length;
    for (int edge = -2; edge < most_edges; edge++) {
        top->rst = edge < 0;
        top->clk = 0;
        const bool ask_row = edge >= 0 && top->row_request, ask_col = edge >= 0 && top->col_request;
        const int row_width = width(top->row_operand), columns = width(top->col_operand);
        drive(top->row_operand, ask_row ? rows + (top->row_tile * length + top->row_step) * row_width : nullptr,
              noise, 0xff);
        drive(top->col_operand, ask_col ? cols + (top->col_tile * col_steps + top->col_step) * columns : nullptr,
              noise, (1u << word_bits) - 1);
        top->eval();
        top->clk = 1;
        top->eval();
        if (edge < 0) continue;
        for (int c = 0; c < columns; c++) {
            valid[edge * columns + c] = top->result_valid[c];
            result[edge * columns + c] = top->result_valid[c] ? static_cast<int32_t>(top->result[c]) : 0;
        }
        if (top->done) return edge + 1;
    }
    return most_edges;
}
