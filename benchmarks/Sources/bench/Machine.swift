// SPDX-License-Identifier: Apache-2.0

import CBareLoop
import CKernels
import Foundation

/// The machine of a measurement.
struct Machine: Codable {
    let processor: String
    let processorCount: Int
    /// Whether the processor reports a virtual machine, which may share it with others.
    let isVirtual: Bool
    let instructionSet: String
    let memoryGigabytes: Int
    let system: String
    let compiler: String
    let library: String
    let openMP: String
    /// The work that all threads do in the time of one thread's, as a multiple of that work.
    let speedUpOfCompute: Double
    let threads: Int

    static func current() -> Machine {
        let description = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
        func field(_ name: String) -> String? {
            description.split(separator: "\n").first { $0.hasPrefix(name) }?.split(separator: ":", maxSplits: 1).last
                .map { $0.trimmingCharacters(in: .whitespaces) }
        }
        let process = ProcessInfo.processInfo
        // The description comes first: it makes the library bind the runtime whose threads the bare loops use.
        let openMP = String(cString: dsk_runtime_description())
        let threads = Int(dsk_default_thread_count())
        // A thread begins on its parent's core, and leaves it only after some time slices.
        let check = CoreCheck(threads: threads)
        var waited = 0.0
        while waited < 0.2 { waited += seconds { _ = check.speedUp() } }
        let version = Int(dsk_version())
        return Machine(
            processor: field("model name") ?? "unknown processor", processorCount: process.activeProcessorCount,
            isVirtual: field("flags")?.split(separator: " ").contains("hypervisor") ?? false,
            instructionSet: String(cString: bare_isa()),
            memoryGigabytes: Int((Double(process.physicalMemory) / Double(1 << 30)).rounded()),
            system: process.operatingSystemVersionString, compiler: String(cString: bare_compiler()),
            library: "\(version / 10000).\(version / 100 % 100).\(version % 100)", openMP: openMP,
            speedUpOfCompute: check.speedUp(), threads: threads)
    }

    var lines: [String] {
        var lines = [
            "\(processor), \(processorCount) processors\(isVirtual ? " of a virtual machine" : ""), \(instructionSet), \(memoryGigabytes) GiB; \(system)",
            "\(compiler); DiffusionScheduling \(library)",
            "OpenMP: \(openMP); \(threads) threads",
        ]
        if threads > 1 {
            let factor = speedUpOfCompute.formatted(.number.precision(.fractionLength(2)))
            lines.append(
                "arithmetic on \(threads) threads: \(factor) times that on one"
                    + (speedUpOfCompute < CoreCheck.leastShare * Double(threads)
                        ? ": THREADS SHARE A CORE, now at least; rounds that begin so are repeated" : ""))
        }
        return lines
    }
}
