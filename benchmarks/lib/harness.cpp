// SPDX-License-Identifier: Apache-2.0
// Runs one job of the W4A8 engine in a Verilator model at full speed: plays the memory of
// docs/engines/w4a8.md, section 7, without stalls, and counts cycles as decision 0001 defines them.
// Generated constants: engine.h. Usage: Vtop JOB MEMORIES RESULT
//   JOB       16 words of 32 bit
//   MEMORIES  per stream a, w, s, e, r: uint64 byte count, then the bytes
//   RESULT    out: M * N results of 16 bit, row-major
#include "Vtop.h"
#include "engine.h"
#include "verilated.h"

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

namespace {

struct Stream {
    std::vector<uint8_t> memory;
    std::deque<std::pair<uint64_t, uint32_t>> flight;  // due cycle, address
    uint64_t beats = 0;

    // Present the oldest response if it is due; bytes past the end of the memory are 0.
    template <typename Payload>
    void respond(uint64_t t, size_t element, size_t beat, Payload& payload, CData& valid) {
        valid = !flight.empty() && flight.front().first <= t;
        if (!valid) return;
        const uint64_t at = uint64_t(flight.front().second) * element;
        flight.pop_front();
        beats++;
        const uint64_t found = at < memory.size() ? std::min<uint64_t>(beat, memory.size() - at) : 0;
        auto* bytes = reinterpret_cast<uint8_t*>(&payload);
        std::memset(bytes, 0, sizeof(payload));
        std::memcpy(bytes, memory.data() + at, found);
    }

    void request(uint64_t t, bool valid, uint32_t address) {
        if (valid) flight.emplace_back(t + MEMORY_LATENCY, address);
    }
};

void check(bool ok, const char* what) {
    if (ok) return;
    std::fprintf(stderr, "harness: %s\n", what);
    std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
    check(argc == 4, "expected JOB MEMORIES RESULT");
    uint32_t job[16];
    FILE* file = std::fopen(argv[1], "rb");
    check(file && std::fread(job, 4, 16, file) == 16, "cannot read the job");
    std::fclose(file);
    const uint64_t m = job[0], n = job[1], y_base = job[12], y_stride = job[13];
    Stream streams[5];
    file = std::fopen(argv[2], "rb");
    check(file, "cannot read the memories");
    for (Stream& stream : streams) {
        uint64_t size = 0;
        check(std::fread(&size, 8, 1, file) == 1, "memories are too short");
        stream.memory.resize(size);
        check(std::fread(stream.memory.data(), 1, size, file) == size, "memories are too short");
    }
    std::fclose(file);
    std::vector<uint16_t> y(m * n);

    VerilatedContext context;
    Vtop top(&context);
    top.clk = 0;
    top.rst = 1;
    top.i_job___05Fvalid = 0;
    for (int edge = 0; edge < 8; edge++) {
        top.clk = !top.clk;
        top.eval();
    }
    top.rst = 0;
    top.clk = 0;
    DRIVE_READY
    std::memcpy(&top.i_job___05Fpayload, job, sizeof(job));
    top.i_job___05Fvalid = 1;
    top.eval();
    check(top.i_job___05Fready, "the engine is not idle after reset");

    const uint64_t wanted = m * n, limit = 1000000 + 64 * uint64_t(job[2]) * (m + 64) * (n + 64);
    uint64_t t = 0, written = 0, y_beats = 0;
    uint8_t beat[(32 + 17 * LANES + 7) / 8 + 8];
    const auto begin = std::chrono::steady_clock::now();
    for (; written < wanted; t++) {
        check(t < limit, "the engine does not finish");
        top.i_job___05Fvalid = t == 0;
        RESPOND
        top.clk = 0;
        top.eval();
        REQUEST
        if (top.o_y___05Fvalid) {
            std::memcpy(beat, &top.o_y___05Fpayload, sizeof(top.o_y___05Fpayload));
            uint32_t address;
            std::memcpy(&address, beat, 4);
            const uint64_t row = (address - y_base) / y_stride, column = (address - y_base) % y_stride;
            y_beats++;
            for (uint64_t lane = 0; lane < LANES; lane++) {
                const uint64_t keep = 32 + 16 * LANES + lane;
                if (!(beat[keep / 8] >> (keep % 8) & 1)) continue;
                check(row < m && column + lane < n, "a result lies outside Y");
                std::memcpy(&y[row * n + column + lane], beat + 4 + 2 * lane, 2);
                written++;
            }
        }
        top.clk = 1;
        top.eval();
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    top.final();
    file = std::fopen(argv[3], "wb");
    check(file && std::fwrite(y.data(), 2, y.size(), file) == y.size(), "cannot write the result");
    std::fclose(file);
    std::printf("{\"cycles\": %llu, \"seconds\": %.6f, \"beats\": [%llu, %llu, %llu, %llu, %llu, %llu]}\n",
                (unsigned long long)t, seconds.count(), (unsigned long long)streams[0].beats,
                (unsigned long long)streams[1].beats, (unsigned long long)streams[2].beats,
                (unsigned long long)streams[3].beats, (unsigned long long)streams[4].beats,
                (unsigned long long)y_beats);
    return 0;
}
