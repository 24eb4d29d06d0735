// SPDX-License-Identifier: Apache-2.0

// A Swift program with its own Swift runtime, linked with the static library and the library's runtime. The program's runtime finds
// the program's types, conformances and errors, and the library's calls work beside them.

protocol Named {
    var name: String { get }
}

struct Ring: Named {
    let name = "ring"
}

enum HostError: Error {
    case told(String)
}

func name(of value: Any) -> String? { (value as? any Named)?.name }

func text(of operation: () throws -> Void) -> String {
    do {
        try operation()
        return "nothing was thrown"
    } catch {
        return "\(type(of: error)) \(error)"
    }
}

var scheduler = ds_scheduler()
var count = 0
let configuration = "{\"_class_name\": \"DPMSolverMultistepScheduler\"}"
precondition(ds_scheduler_create(configuration, configuration.utf8.count, nil, nil, &scheduler) == DS_OK)
precondition(ds_scheduler_set_timesteps(scheduler, 20, nil) == DS_OK)
precondition(ds_scheduler_timesteps(scheduler, nil, 0, &count) == DS_OK && count == 20)
precondition(ds_scheduler_set_timesteps(scheduler, 0, nil) != DS_OK)
precondition(!String(cString: ds_error_message()).isEmpty)
precondition(name(of: Ring()) == "ring" && name(of: 3) == nil)
precondition(text { throw HostError.told("why") } == "HostError told(\"why\")")
precondition(Mirror(reflecting: Ring()).children.map(\.label) == ["name"])
precondition(ds_scheduler_free(scheduler) == DS_OK)
print("two Swift runtimes, each with its own types")
