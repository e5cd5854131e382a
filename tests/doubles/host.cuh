// The part of CUDA that kernels/gpu/*.cu use, for the host: g++ builds the same sources for the CPU.
// host_cuda.py puts this file before a source and a launcher for each kernel after it.
//
// Each thread of a grid is a fiber. One runs at a time, until it waits for others at __syncthreads,
// __syncwarp or a shuffle, or calls PAUSE() in a loop that waits for memory; sometimes also until an
// atomic or a fence. The launch's seed decides which one runs next, so that code that relies on an
// order fails for some seed. As many blocks run at once as would fit on the device.
//
// A launch ends with an error if threads wait for something that cannot come, wait at different
// places, touch memory outside their arrays, or do not end: arrays and shared memory lie between
// guard pages, and unwritten memory is NaN. The order in which memory becomes visible is not
// simulated: a missing __threadfence is not found.

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <math.h>
#include <numeric>
#include <sys/mman.h>
#include <sys/time.h>
#include <type_traits>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
    unsigned int x, y, z;
};
namespace simulated {

// ---------------------------------------------------------------------------------- a launch

// The type of a kernel's parameter, as in host_cuda.TypeOf: its size; whether it is a pointer, and
// one to const; and the kind ('i', 'u', 'f' or 'b') and size of the number that it is or points to,
// 0 bytes for a struct.
struct TypeOf {
    int size, pointer, constant;
    char kind;
    int number;
};

// A kernel's launch bounds as arguments
constexpr int most_threads(int threads, int = 0, int = 0) { return threads; }

template <typename T>
constexpr TypeOf number_of() {
    if constexpr (std::is_same_v<T, bool>) return {0, 0, 0, 'b', 1};
    else if constexpr (std::is_floating_point_v<T>) return {0, 0, 0, 'f', int(sizeof(T))};
    else if constexpr (std::is_integral_v<T>)
        return {0, 0, 0, std::is_signed_v<T> ? 'i' : 'u', int(sizeof(T))};
    else return {0, 0, 0, 'V', 0};
}

template <typename T>
constexpr TypeOf type_of() {
    using Pointed = std::remove_pointer_t<T>;
    TypeOf type = number_of<std::remove_cv_t<Pointed>>();
    type.size = sizeof(T);
    type.pointer = std::is_pointer_v<T>;
    type.constant = std::is_pointer_v<T> && std::is_const_v<Pointed>;
    return type;
}

// An array's memory on the host, and its copy that the kernel works on.
struct Region {
    char* host;
    std::size_t bytes;
    int written; // whether the kernel may write to it
};

// As host_cuda.Launch has it.
struct Launch {
    unsigned int grid[3], block[3];
    std::size_t shared;    // bytes a block
    unsigned int resident; // blocks that are there at once
    unsigned int seed;
    double seconds; // of the processor, after which the launch has failed
    int parameters;
    void** arguments; // where the value of each parameter is
    int* region_of;   // of each parameter: the region that it points into, or -1
    int regions;
    Region* region;
    char* message; // receives what went wrong
    std::size_t capacity;
};

constexpr int WARP = 32;
constexpr std::size_t STACK = 64 * 1024;
constexpr std::size_t COLOURS = 512, LINE = 64; // stacks begin at that many places of the caches
constexpr std::size_t GUARD = std::size_t(1) << 20;  // bytes before and after memory of a kernel
constexpr unsigned char UNWRITTEN = 0xff;            // NaN as float and as double
constexpr int HOPELESS = 100000; // rounds in which threads did nothing but look again

enum State { READY, PAUSED, AT_BLOCK, AT_WARP, ENDED };
const char* const STATES[] = {"runs", "spins", "waits at __syncthreads", "waits for its warp",
                              "has ended"};
enum Kind { SYNC, SHUFFLE };

// The place at which a fiber, or the scheduler, continues
#if defined(__x86_64__)
typedef void* Context; // the end of its stack, on which are the registers that calls preserve

// Stores this place in *from and continues at `to`. There and back takes 30 ns; with swapcontext,
// which makes a system call, 500.
__attribute__((naked, noinline)) static void change(Context*, Context) {
    asm("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15;"
        "movq %rsp, (%rdi); movq %rsi, %rsp;"
        "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp;"
        "popq %rcx; jmp *%rcx"); // which is predicted, and a return from elsewhere is not
}

static void begin(Context& context, char* stack, std::size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + size) - 8;
    std::fill(top, top + 8, nullptr); // registers, the entry, and nowhere to return to
    top[6] = reinterpret_cast<void*>(entry);
    context = top;
}
#else
typedef ucontext_t Context;

static void change(Context* from, Context& to) { swapcontext(from, &to); }

static void begin(Context& context, char* stack, std::size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = size;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
#endif

struct Fiber {
    Context context;
    char* map;
    char* stack;
};

struct Block;

struct Thread {
    uint3 index;
    Block* block;
    int number, lane; // in the block, in the warp
    State state;
    int line; // of the source, where it waits
    Fiber* fiber;
    // what it brings to its warp, and what it receives
    Kind kind;
    unsigned int mask;
    std::uint64_t value, result;
    int source;
};

// Memory between guard pages; `data` is aligned to 16 bytes.
struct Guarded {
    char* map = nullptr;
    std::size_t mapped = 0;
    char* data = nullptr;
    std::size_t bytes = 0;
    std::size_t room = 0; // from the end of the first guard to the start of the last

    void allocate(std::size_t wanted) {
        const std::size_t page = std::size_t(sysconf(_SC_PAGESIZE));
        const std::size_t body = (wanted + 15) / 16 * 16;
        bytes = wanted;
        room = (body + page - 1) / page * page;
        mapped = GUARD + room + GUARD;
        void* got = mmap(nullptr, mapped, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        map = got == MAP_FAILED ? nullptr : static_cast<char*>(got);
        if (map != nullptr && room > 0) mprotect(map + GUARD, room, PROT_READ | PROT_WRITE);
        data = map + GUARD + room - body;
        if (map != nullptr) std::memset(map + GUARD, UNWRITTEN, room);
    }
    void release() {
        if (map != nullptr) munmap(map, mapped);
        map = nullptr;
    }
    // Whether what lies around the data, but outside the guards, is as it was.
    bool intact() const {
        const auto untouched = [](const char* from, const char* to) {
            return std::all_of(from, to, [](char c) { return (unsigned char)c == UNWRITTEN; });
        };
        return untouched(map + GUARD, data) && untouched(data + bytes, map + GUARD + room);
    }
};

// Lanes as bits: those that there are, that wait for others, and that have ended.
struct Warp {
    unsigned int lanes, waiting, ended;
};

struct Block {
    uint3 index;
    Guarded shared;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    int waiting, ended, votes; // threads at __syncthreads; at the end; votes at __syncthreads_or
    const Thread *first_waiting, *last_ended;
    bool there = false;
};

struct Grid {
    Launch* launch;
    void (*kernel)();
    uint3 blocks, threads;
    std::vector<Block> resident;
    std::vector<Fiber*> idle;
    std::vector<Guarded> memory; // of the regions
    std::uint32_t random;
    bool moved; // whether a thread got anywhere since the last look
};

static Grid grid;
static Thread* self = nullptr; // the thread that runs
static Context scheduler;
static sigjmp_buf end_of_launch;
static volatile sig_atomic_t running = 0;

inline std::uint32_t draw() { // xorshift32, Marsaglia 2003
    std::uint32_t& x = grid.random;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return x;
}

inline void describe(char* text, std::size_t size, const Thread& t) {
    std::snprintf(text, size, "thread (%u, %u, %u) of block (%u, %u, %u)", t.index.x, t.index.y,
                  t.index.z, t.block->index.x, t.block->index.y, t.block->index.z);
}

// Ends the launch with a message. Nothing on the way has anything to destroy.
[[noreturn]] __attribute__((format(printf, 1, 2))) static void fail(const char* format, ...) {
    char who[100] = "";
    if (self != nullptr) describe(who, sizeof who, *self);
    char what[400];
    va_list values;
    va_start(values, format);
    std::vsnprintf(what, sizeof what, format, values);
    va_end(values);
    std::snprintf(grid.launch->message, grid.launch->capacity, "%s%s%s", who, *who ? " " : "",
                  what);
    siglongjmp(end_of_launch, 1);
}

// ---------------------------------------------------------------------------------- fibers

static void to_scheduler() {
    if (static_cast<char*>(__builtin_frame_address(0)) < self->fiber->stack + STACK / 8)
        fail("uses more than %zu bytes of stack", STACK);
    change(&self->fiber->context, scheduler);
}

static void to_fiber(Thread* thread) {
    self = thread;
    change(&scheduler, thread->fiber->context);
    self = nullptr;
}

static void thread_ended();

static void life() { // of a fiber: one thread after another
    for (;;) {
        grid.kernel();
        thread_ended();
        to_scheduler();
    }
}

static Fiber* new_fiber() {
    if (!grid.idle.empty()) {
        Fiber* fiber = grid.idle.back();
        grid.idle.pop_back();
        return fiber;
    }
    Fiber* fiber = new Fiber;
    void* map = mmap(nullptr, STACK + COLOURS * LINE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) fail("no memory is left for the stacks of the threads");
    static std::size_t made = 0;
    fiber->map = static_cast<char*>(map);
    fiber->stack = fiber->map + made++ % COLOURS * LINE;
    begin(fiber->context, fiber->stack, STACK, life);
    return fiber;
}

static void delete_fiber(Fiber* fiber) {
    munmap(fiber->map, STACK + COLOURS * LINE);
    delete fiber;
}

// ---------------------------------------------------------------------------------- waiting

static void pause() {
    self->state = PAUSED;
    to_scheduler();
}

// At atomics and fences other threads may run, or not.
static void perhaps_others() {
    if (draw() % 8 == 0) to_scheduler();
}

static void release_block(Block& block) {
    for (Thread& thread : block.threads) thread.state = READY;
    block.waiting = 0;
    grid.moved = true;
}

static void block_barrier(int line) {
    Block& block = *self->block;
    if (block.ended > 0) {
        const uint3& other = block.last_ended->index;
        fail("waits at __syncthreads in line %d, and thread (%u, %u, %u) has ended without it",
             line, other.x, other.y, other.z);
    }
    if (block.waiting == 0) block.first_waiting = self;
    const uint3& other = block.first_waiting->index;
    if (block.first_waiting->line != line && block.waiting > 0)
        fail("waits at __syncthreads in line %d, and thread (%u, %u, %u) at that in line %d", line,
             other.x, other.y, other.z, block.first_waiting->line);
    self->state = AT_BLOCK;
    self->line = line;
    grid.moved = true;
    if (++block.waiting == int(block.threads.size())) release_block(block);
    to_scheduler();
}

// __syncthreads that counts where `vote` holds.
static int block_vote(int line, bool vote) {
    Block& block = *self->block;
    if (block.waiting == 0) block.votes = 0;
    block.votes += vote;
    block_barrier(line);
    const int votes = block.votes;
    block_barrier(line); // all read before the next vote
    return votes;
}

static void thread_ended() {
    Block& block = *self->block;
    self->state = ENDED;
    ++block.ended;
    block.last_ended = self;
    grid.moved = true;
    if (block.waiting > 0) {
        const Thread& other = *block.first_waiting;
        fail("has ended, and thread (%u, %u, %u) waits at __syncthreads in line %d", other.index.x,
             other.index.y, other.index.z, other.line);
    }
    Warp& warp = block.warps[self->number / WARP];
    warp.ended |= 1u << self->lane;
    for (unsigned int rest = warp.waiting; rest != 0; rest &= rest - 1) {
        const Thread& other = block.threads[self->number - self->lane + __builtin_ctz(rest)];
        if (other.mask >> self->lane & 1)
            fail("has ended, and lane %d waits for it in line %d", other.lane, other.line);
    }
}

// All lanes of `mask` meet; in a shuffle each receives the value of lane `source`.
static std::uint64_t warp_meets(Kind kind, unsigned int mask, std::uint64_t value, int source,
                                int line) {
    Thread* const me = self;
    Thread* const lanes = &me->block->threads[me->number - me->lane];
    Warp& warp = me->block->warps[me->number / WARP];
    if (!(mask >> me->lane & 1)) fail("is not in the mask 0x%08x of line %d", mask, line);
    if (mask & ~warp.lanes) fail("waits in line %d for lanes that its warp does not have", line);
    if (mask & warp.ended)
        fail("waits in line %d for lane %d, which has ended", line,
             __builtin_ctz(mask & warp.ended));
    if (mask & warp.waiting) {
        const Thread& other = lanes[__builtin_ctz(mask & warp.waiting)];
        if (other.mask != mask || other.kind != kind)
            fail("waits for its warp in line %d, and lane %d in line %d, for other lanes or "
                 "otherwise", line, other.lane, other.line);
    }
    me->kind = kind, me->mask = mask, me->value = value, me->source = source, me->line = line;
    me->state = AT_WARP;
    warp.waiting |= 1u << me->lane;
    if ((warp.waiting & mask) == mask) {
        for (int lane = 0; lane < WARP; ++lane) {
            if (!(mask >> lane & 1)) continue;
            const int from = lanes[lane].source;
            if (kind == SHUFFLE && !(mask >> from & 1))
                fail("lane %d reads lane %d in line %d, which takes no part", lane, from, line);
            lanes[lane].result = lanes[from].value;
            lanes[lane].state = READY;
        }
        warp.waiting &= ~mask;
        grid.moved = true;
    }
    to_scheduler();
    return me->result;
}

template <typename T>
T shuffled(unsigned int mask, T value, int source, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles take 4 or 8 bytes");
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = warp_meets(SHUFFLE, mask, bits, source, line);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T, typename F>
T atomically(T* address, F changed) {
    perhaps_others();
    const T before = *address;
    *address = changed(before);
    return before;
}

// ---------------------------------------------------------------------------------- scheduling

// Lets block number `number` of the grid in.
static void admit(Block& block, std::uint64_t number) {
    const std::uint64_t rest = number / grid.blocks.x;
    block.index = {unsigned(number % grid.blocks.x), unsigned(rest % grid.blocks.y),
                   unsigned(rest / grid.blocks.y)};
    block.waiting = block.ended = 0;
    block.there = true;
    if (block.shared.map == nullptr) block.shared.allocate(grid.launch->shared);
    if (block.shared.map == nullptr) fail("no memory is left for the shared memory");
    std::memset(block.shared.data, UNWRITTEN, block.shared.bytes);
    block.threads.resize(std::size_t(grid.threads.x) * grid.threads.y * grid.threads.z);
    block.warps.assign((block.threads.size() + WARP - 1) / WARP, Warp());
    int i = 0;
    for (Thread& thread : block.threads) {
        thread.number = i++;
        thread.lane = thread.number % WARP;
        thread.block = &block;
        thread.state = READY;
        thread.index = {thread.number % grid.threads.x,
                        thread.number / grid.threads.x % grid.threads.y,
                        thread.number / grid.threads.x / grid.threads.y};
        thread.fiber = new_fiber();
        block.warps[thread.number / WARP].lanes |= 1u << thread.lane;
    }
}

static void leave(Block& block) {
    self = &block.threads[0];
    if (!block.shared.intact()) fail("and the others wrote outside their shared memory");
    self = nullptr;
    for (Thread& thread : block.threads) {
        grid.idle.push_back(thread.fiber);
        thread.fiber = nullptr;
    }
    block.there = false;
}

// Runs the threads of a warp in random order, mostly until they wait for other warps, so that their
// stacks stay in the cache. Returns whether a thread could run.
static bool run_warp(Block& block, unsigned int warp) {
    const unsigned int first = warp * WARP;
    const unsigned int n = std::min<unsigned int>(WARP, unsigned(block.threads.size()) - first);
    bool ran = false, again = false;
    do {
        const unsigned int step = draw() | 1, start = draw();
        const bool others_too = !again;
        again = false;
        for (unsigned int count = 0; count < WARP; ++count) {
            const unsigned int lane = (start + count * step) % WARP;
            if (lane >= n) continue;
            Thread& thread = block.threads[first + lane];
            if (thread.state != READY && (thread.state != PAUSED || !others_too)) continue;
            ran = true;
            thread.state = READY;
            to_fiber(&thread);
        }
        for (unsigned int lane = 0; lane < n; ++lane)
            again = again || block.threads[first + lane].state == READY;
    } while (again && draw() % 8 != 0);
    return ran;
}

// Runs each warp of the block once, in random order. Returns whether a thread could run.
static bool run_block(Block& block) {
    const unsigned int n = unsigned(block.warps.size());
    unsigned int step = draw() % n;
    while (std::gcd(step, n) != 1) step = (step + 1) % n;
    bool ran = false;
    for (unsigned int count = 0, warp = draw() % n; count < n; ++count, warp = (warp + step) % n)
        ran |= run_warp(block, warp);
    return ran;
}

[[noreturn]] static void fail_stuck(const char* why) {
    int counts[5] = {};
    const Thread* example[5] = {};
    for (const Block& block : grid.resident)
        if (block.there)
            for (const Thread& thread : block.threads) {
                ++counts[thread.state];
                example[thread.state] = &thread;
            }
    char text[300] = "";
    for (int state = PAUSED; state <= AT_WARP; ++state)
        if (counts[state] > 0) {
            char who[100];
            describe(who, sizeof who, *example[state]);
            const std::size_t used = std::strlen(text);
            std::snprintf(text + used, sizeof text - used, "%s%s %s", used ? "; " : "", who,
                          STATES[state]);
            const std::size_t so_far = std::strlen(text);
            if (state != PAUSED)
                std::snprintf(text + so_far, sizeof text - so_far, " in line %d",
                              example[state]->line);
        }
    fail("deadlock, %s (%zu blocks fit on the device at once): %s", why, grid.resident.size(),
         text);
}

static void run_grid() {
    const std::uint64_t blocks = std::uint64_t(grid.blocks.x) * grid.blocks.y * grid.blocks.z;
    grid.resident.resize(std::size_t(std::min<std::uint64_t>(blocks, grid.launch->resident)));
    std::uint64_t started = 0, ended = 0;
    for (int fruitless = 0; ended < blocks;) {
        bool ran = false;
        grid.moved = false;
        const std::size_t n = grid.resident.size();
        const std::size_t first = draw() % n;
        for (std::size_t i = 0; i < n; ++i) {
            Block& block = grid.resident[(first + i) % n];
            if (!block.there) {
                if (started == blocks) continue;
                admit(block, started++);
            }
            if (draw() % 4 == 0) { // it falls behind the others
                ran = true;
                continue;
            }
            ran |= run_block(block);
            if (block.ended == int(block.threads.size())) {
                leave(block);
                ++ended;
            }
        }
        if (!ran) fail_stuck("nothing can run");
        fruitless = grid.moved ? 0 : fruitless + 1;
        if (fruitless > HOPELESS) fail_stuck("threads wait for memory that is not written");
    }
}

// ---------------------------------------------------------------------------------- errors

static void on_signal(int signal, siginfo_t* info, void*) {
    if (!running) { // not from a kernel
        std::signal(signal, SIG_DFL);
        return;
    }
    if (signal == SIGFPE) fail("divided an integer by zero");
    if (signal == SIGVTALRM)
        fail("still runs after %g seconds: does it wait in a loop without PAUSE()?",
             grid.launch->seconds);
    const char* at = static_cast<char*>(info->si_addr);
    for (int p = 0; p < grid.launch->parameters; ++p) {
        const int region = grid.launch->region_of[p];
        if (region < 0) continue;
        const Guarded& memory = grid.memory[region];
        if (at >= memory.map && at < memory.map + memory.mapped)
            fail("touched memory %td bytes from the start of an array of %zu bytes (parameter %d)",
                 at - memory.data, memory.bytes, p + 1);
    }
    if (self != nullptr) {
        const Guarded& shared = self->block->shared;
        if (at >= shared.map && at < shared.map + shared.mapped)
            fail("touched byte %td of %zu bytes of shared memory", at - shared.data, shared.bytes);
    }
    fail("touched memory that is neither an array nor shared (address %p)", (const void*)at);
}

static void start(Launch* launch) {
    grid.blocks = {launch->grid[0], launch->grid[1], launch->grid[2]};
    grid.threads = {launch->block[0], launch->block[1], launch->block[2]};
    grid.random = launch->seed * 2654435761u | 1u;
    grid.memory.assign(std::size_t(launch->regions), Guarded());
    for (int i = 0; i < launch->regions; ++i) {
        grid.memory[i].allocate(launch->region[i].bytes);
        if (grid.memory[i].map == nullptr) fail("no memory is left for the arrays");
        std::memcpy(grid.memory[i].data, launch->region[i].host, launch->region[i].bytes);
    }
    for (int p = 0; p < launch->parameters; ++p) {
        const int region = launch->region_of[p];
        if (region < 0) continue;
        char*& pointer = *static_cast<char**>(launch->arguments[p]);
        pointer = grid.memory[region].data + (pointer - launch->region[region].host);
    }
}

static void finish(Launch* launch) {
    self = nullptr;
    for (int i = 0; i < launch->regions; ++i) {
        if (grid.memory[i].intact()) continue;
        int p = 0;
        while (launch->region_of[p] != i) ++p;
        fail("a thread wrote outside an array of %zu bytes (parameter %d)", grid.memory[i].bytes,
             p + 1);
    }
    for (int i = 0; i < launch->regions; ++i)
        if (launch->region[i].written)
            std::memcpy(launch->region[i].host, grid.memory[i].data, grid.memory[i].bytes);
}

static void clean_up(bool failed) {
    for (Block& block : grid.resident) {
        if (block.there)
            for (Thread& thread : block.threads)
                if (thread.fiber != nullptr) {
                    delete_fiber(thread.fiber); // stopped inside the kernel
                    thread.fiber = nullptr;
                }
        block.shared.release();
    }
    grid.resident.clear();
    for (Guarded& memory : grid.memory) memory.release();
    grid.memory.clear();
    if (failed) { // a stack that was too small may have run over others'
        for (Fiber* fiber : grid.idle) delete_fiber(fiber);
        grid.idle.clear();
    }
}

// Runs the grid; returns 0, or 1 with a message and unchanged arrays.
static int run(Launch* launch, void (*kernel)()) {
    static const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGVTALRM};
    static char signal_stack[64 * 1024];
    struct sigaction before[4], ours = {};
    struct itimerval limit = {}, limit_before;
    limit.it_value.tv_sec = time_t(launch->seconds);
    limit.it_value.tv_usec = suseconds_t(1e6 * (launch->seconds - std::floor(launch->seconds)));
    stack_t stack = {}, stack_before;
    stack.ss_sp = signal_stack;
    stack.ss_size = sizeof signal_stack;
    sigaltstack(&stack, &stack_before);
    ours.sa_sigaction = on_signal;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 4; ++i) sigaction(SIGNALS[i], &ours, &before[i]);
    setitimer(ITIMER_VIRTUAL, &limit, &limit_before);
    grid.launch = launch;
    grid.kernel = kernel;
    int failed = 1;
    running = 1;
    if (sigsetjmp(end_of_launch, 1) == 0) {
        start(launch);
        run_grid();
        finish(launch);
        failed = 0;
    }
    running = 0;
    setitimer(ITIMER_VIRTUAL, &limit_before, nullptr);
    for (int i = 0; i < 4; ++i) sigaction(SIGNALS[i], &before[i], nullptr);
    sigaltstack(&stack_before, nullptr);
    clean_up(failed);
    return failed;
}

} // namespace simulated

// ---------------------------------------------------------------------------------- the language

#define threadIdx (simulated::self->index)
#define blockIdx (simulated::self->block->index)
#define blockDim (simulated::grid.threads)
#define gridDim (simulated::grid.blocks)
constexpr int warpSize = simulated::WARP;

#define SHARED(type, name) \
    type* const name = reinterpret_cast<type*>(simulated::self->block->shared.data)
#define PAUSE() simulated::pause()

#define __syncthreads() simulated::block_barrier(__LINE__)
#define __syncthreads_or(vote) (simulated::block_vote(__LINE__, vote) > 0)
#define __syncwarp() simulated::warp_meets(simulated::SYNC, ~0u, 0, 0, __LINE__)
#define __shfl_xor_sync(mask, value, bits) \
    simulated::shuffled(mask, value, simulated::self->lane ^ (bits), __LINE__)

inline void __threadfence() { simulated::perhaps_others(); }
#define __trap() simulated::fail("came to __trap in line %d", __LINE__)

template <typename T>
T __ldcg(const T* address) { return *address; }
template <typename T>
T atomicAdd(T* address, std::common_type_t<T> value) {
    return simulated::atomically(address, [=](T old) { return T(old + value); });
}
inline unsigned int atomicInc(unsigned int* address, unsigned int last) {
    const auto next = [=](unsigned int old) { return old >= last ? 0 : old + 1; };
    return simulated::atomically(address, next);
}

inline unsigned int __umulhi(unsigned int a, unsigned int b) {
    return (unsigned int)(std::uint64_t(a) * b >> 32);
}
