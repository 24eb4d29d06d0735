// SPDX-License-Identifier: Apache-2.0

import CTestSupport
import Foundation
import Testing

/// DIFFUSION_SCHEDULING_TEST_ISA limits the instruction set of these tests from the start; Tests/check-variants.sh relies on it.
@Suite struct InstructionSetTests {
    @Test func theVariableLimitsIt() {
        let limit = ProcessInfo.processInfo.environment["DIFFUSION_SCHEDULING_TEST_ISA"].flatMap(Int32.init)
        #expect(limit.map { (0...$0).contains(test_isa()) } ?? (test_isa() == -1))
    }
}
