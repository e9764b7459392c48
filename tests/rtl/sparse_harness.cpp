// Clocks one Verilated sparse machine: operands are written, then every cycle until `done` is recorded, then sums are read.
#include "Vtop.h"

#include <cstdint>
#include <memory>

// writes: [number][memory, unit, address, data]; reads: [number][unit, place].  Outputs are recorded as they stand just
// before the rising edge, [most_cycles][slots or units].  Returns the number of cycles; most_cycles where it is never done.
extern "C" int run(int number_of_writes, const uint32_t* writes, int most_cycles, uint8_t* valid, uint32_t* place,
                   int32_t* value, uint8_t* busy, uint8_t* stall, int number_of_reads, const uint32_t* reads,
                   int32_t* read_values) {
    const auto context = std::make_unique<VerilatedContext>();
    context->randReset(2);  // what was never written is noise: whoever reads it is found out
    context->randSeed(1);
    const auto top = std::make_unique<Vtop>(context.get());
    const auto edge = [&top] {
        top->clk = 1;
        top->eval();
        top->clk = 0;
    };
    top->clk = 0, top->run = 0, top->write = 0, top->rst = 1;
    for (int i = 0; i < 2; i++) top->eval(), edge();
    top->rst = 0, top->write = 1;
    for (int i = 0; i < number_of_writes; i++, writes += 4) {
        top->write_memory = writes[0], top->write_unit = writes[1];
        top->write_address = writes[2], top->write_data = writes[3];
        top->eval(), edge();
    }
    top->write = 0, top->run = 1;
    constexpr int slots = sizeof(top->valid) / sizeof(top->valid[0]), units = sizeof(top->busy) / sizeof(top->busy[0]);
    int cycle = 0;
    for (; cycle < most_cycles; cycle++) {
        top->eval();
        if (top->done) break;
        for (int s = 0; s < slots; s++) {
            *valid++ = top->valid[s];
            *place++ = top->valid[s] ? top->place[s] : 0;
            *value++ = top->valid[s] ? static_cast<int32_t>(top->value[s]) : 0;
        }
        for (int u = 0; u < units; u++) *busy++ = top->busy[u], *stall++ = top->stall[u];
        edge();
    }
    top->run = 0;
    for (int i = 0; i < number_of_reads; i++, reads += 2) {
        top->read_unit = reads[0], top->read_place = reads[1];
        top->eval();
        read_values[i] = static_cast<int32_t>(top->read_value);
    }
    return cycle;
}
