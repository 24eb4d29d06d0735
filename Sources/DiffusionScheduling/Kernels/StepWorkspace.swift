// SPDX-License-Identifier: Apache-2.0

internal import CKernels

/// Scratch memory for a step of several items: the items in the form that the kernels read, a guided row for each item, and room
/// for finding thresholds.
///
/// A session keeps one for its later steps, which then allocate nothing.
final class StepWorkspace: @unchecked Sendable {
    // Unchecked, because one step uses it at a time: a session owns it alone or makes its own.

    let itemCount: Int
    private let elementsPerItem: Int
    private let findsThresholds: Bool
    let items: UnsafeMutablePointer<dsk_item>
    let rows: UnsafeMutablePointer<dsk_prepared_row>
    let moments: UnsafeMutablePointer<dsk_moments>
    /// Addresses for `dsk_find_moments`: of the conditional outputs, then of the unconditional ones.
    let outputs: UnsafeMutablePointer<UnsafeRawPointer?>
    private let thresholds: UnsafeMutableRawPointer
    private let thresholdBytes: Int

    init(itemCount: Int, elementsPerItem: Int, findsThresholds: Bool) throws(SchedulerError) {
        self.itemCount = itemCount
        self.elementsPerItem = elementsPerItem
        self.findsThresholds = findsThresholds
        thresholdBytes = findsThresholds ? dsk_threshold_workspace_size(elementsPerItem) : 0
        thresholds = try TensorMemory.allocate(elementCount: itemCount, elementSize: thresholdBytes)
        items = .allocate(capacity: itemCount)
        items.initialize(repeating: dsk_item(), count: itemCount)
        rows = .allocate(capacity: itemCount)
        rows.initialize(repeating: dsk_prepared_row(), count: itemCount)
        moments = .allocate(capacity: itemCount)
        moments.initialize(repeating: dsk_moments(), count: itemCount)
        outputs = .allocate(capacity: 2 * itemCount)
        outputs.initialize(repeating: nil, count: 2 * itemCount)
    }

    deinit {
        TensorMemory.free(thresholds)
        items.deallocate()
        rows.deallocate()
        moments.deallocate()
        outputs.deallocate()
    }

    func fits(itemCount: Int, elementsPerItem: Int, findsThresholds: Bool) -> Bool {
        self.itemCount == itemCount && self.elementsPerItem == elementsPerItem && (self.findsThresholds || !findsThresholds)
    }

    /// The scratch memory for an item's threshold.
    func thresholdWorkspace(of item: Int) -> UnsafeMutableRawPointer { thresholds + item * thresholdBytes }
}
