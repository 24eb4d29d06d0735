// SPDX-License-Identifier: Apache-2.0

extension SamplingPlan {
    /// The plan's rows as a table that kernels on devices read: uploaded once, it serves every run of the plan there.
    ///
    /// A table is an array of records of 1,024 bytes: one for free places of a batch, then one for each row, by evaluation and by
    /// age. `device_table.h` has the layout, docs/DEVICES.md the kernels. Tables may follow one another in one buffer.
    ///
    /// - Parameter firstRecord: the number of records before the table in its buffer.
    /// - Returns: the bytes, in the order of this machine.
    /// - Throws: `invalidValue` if the number is negative, or if a record's number wouldn't fit 32 bits.
    /// - Complexity: O(rows).
    public func deviceTable(firstRecord: Int = 0) throws(SchedulerError) -> [UInt8] {
        let count = deviceRecordCount
        let most = Int(Int32.max) - count
        try require("first record", firstRecord, "from 0 to \(most)", (0...max(most, 0)).contains(firstRecord))
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count * DeviceRow.byteCount)
        bytes.append(DeviceRow.free)
        for index in 0..<stepCount {
            for age in 0...min(index, warmUp) {
                let next = index + 1 < stepCount ? firstRecord + deviceRecord(ofEvaluation: index + 1, age: age + 1) : 0
                bytes.append(
                    DeviceRow(
                        kernelRows.row(at: index, age: age).pointee, evaluation: index, timestep: timesteps[index],
                        inputScale: inputScales[index], drawCount: row(at: index, age: age).drawCount, next: next))
            }
        }
        return bytes
    }

    /// The number of an evaluation's record in the plan's own table.
    ///
    /// - Parameters:
    ///   - evaluation: the evaluation, from 0.
    ///   - age: the number of evaluations since the run began; 0 for its first one.
    /// - Precondition: `evaluation` is in the plan, and `age` is from 0 to `evaluation`.
    public func deviceRecord(ofEvaluation evaluation: Int, age: Int = 0) -> Int {
        let full = min(evaluation, warmUp)
        return 1 + full * (full + 1) / 2 + (evaluation - full) * (warmUp + 1) + min(age, warmUp)
    }

    /// The number of records in the plan's table.
    package var deviceRecordCount: Int { deviceRecord(ofEvaluation: stepCount) }
}

extension [UInt8] {
    fileprivate mutating func append(_ row: DeviceRow) { Swift.withUnsafeBytes(of: row) { append(contentsOf: $0) } }
}
