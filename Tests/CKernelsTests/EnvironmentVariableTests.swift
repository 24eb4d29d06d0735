import CKernels
import CTestSupport
import Testing

extension KernelTests {
    /// What Tests/check-variants.sh relies on: the variable limits the instruction set of every test from the start.
    @Suite struct EnvironmentVariableTests {
        @Test func limitsTheInstructionSet() {
            let limit = test_isa()
            guard limit >= 0 else { return }
            // Tests that choose for themselves put back what they found.
            let best = dsk_isa.available.last ?? DSK_ISA_BASELINE
            #expect(best.rawValue <= UInt32(limit) || limit > Int32(DSK_ISA_AVX512.rawValue))
        }
    }
}
