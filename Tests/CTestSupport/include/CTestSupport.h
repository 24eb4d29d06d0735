/* The number that DIFFUSION_SCHEDULING_TEST_ISA has, to which the tests' instruction set is limited; -1: no limit. */
int test_isa(void);
