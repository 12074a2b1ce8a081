# What the explorers share: the scheduler of schedule.c, and a search through the schedules of one scenario.
from libc.stdint cimport uint64_t

ctypedef void (*work_function)(void *) noexcept nogil

cdef extern from "schedule.h" nogil:
    uint64_t explore_clock_ms
    void explore_set_clock(uint64_t ms)
    void explore_set_sizes(int crowded_at, int crowded_parts, int watches_children)
    void hb_schedule(const char *operation, const void *address)
    void explore_begin(int preemptions, int deaths)
    void explore_watch(
        void (*resumed)(int fiber) noexcept nogil, void (*died)(int fiber) noexcept nogil,
        void (*stepped)() noexcept nogil
    )
    bint explore_alone(work_function work, void *argument, bint (*is_time)() noexcept nogil)
    int explore_run(int count, work_function work, void **arguments)
    int explore_next()
    int explore_died(int fiber)
    long explore_died_at(int fiber)
    long explore_began(int fiber)
    long explore_ended(int fiber)
    long explore_steps()
    void explore_describe(char *text, int size)

cdef enum:
    OPERATION_LIMIT = 4     # operations that race, at most

cdef struct Search:
    long limit              # stop after so many schedules; 0: run all
    long runs               # schedules so far
    long steps              # of the longest of them
    const char *wrong       # what is wrong after the last one, or NULL


cdef inline void search_begin(Search *search, int preemptions, int deaths, long limit) noexcept nogil:
    search.limit = limit
    search.runs = search.steps = 0
    search.wrong = NULL
    explore_begin(preemptions, deaths)


cdef inline bint search_goes_on(Search *search, const char *wrong) noexcept nogil:
    # Count the schedule that was just run, after which `wrong` is wrong; whether there is another one to run.
    search.runs += 1
    search.steps = max(search.steps, explore_steps())
    search.wrong = wrong
    return wrong == NULL and search.runs != search.limit and explore_next()


cdef inline tuple search_result(const Search *search, list answers):
    # (schedules, longest run in steps, None or (what is wrong, the answers, the schedule)).
    cdef char text[4096]
    if search.wrong == NULL:
        return search.runs, search.steps, None
    explore_describe(text, sizeof(text))
    return search.runs, search.steps, (search.wrong.decode(), answers, text.decode())


cdef inline bint may_be_next(int i, int placed, int count) noexcept nogil:
    # Whether operation i of `count` can be the next in an order: none of those that are not placed yet (placed: their
    # bits) ended before i began.
    cdef int j
    for j in range(count):
        if j != i and not placed >> j & 1 and explore_ended(j) >= 0 and explore_ended(j) < explore_began(i):
            return False
    return True
