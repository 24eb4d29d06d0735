// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// Plans, levels and factors have the same bits in every rounding mode of the host, and leave the mode unchanged.
/// (Tests/c/environment.c tests steps and noise in the same way.)
@Suite struct FloatingPointEnvironmentTests {
    /// A floating-point environment that a host may have set for the calling thread.
    enum Host: CaseIterable {
        case upward, downward, towardZero
        #if arch(x86_64) && canImport(Glibc)
            case flushing
        #endif

        func set() {
            switch self {
            case .upward: fesetround(FE_UPWARD)
            case .downward: fesetround(FE_DOWNWARD)
            case .towardZero: fesetround(FE_TOWARDZERO)
            #if arch(x86_64) && canImport(Glibc)
                case .flushing:
                    var environment = fenv_t()
                    fegetenv(&environment)
                    environment.__mxcsr |= 0x8040
                    fesetenv(&environment)
            #endif
            }
        }

        /// The environment's state, which calls must leave unchanged.
        static var current: [Int] {
            #if arch(x86_64) && canImport(Glibc)
                var environment = fenv_t()
                fegetenv(&environment)
                return [Int(fegetround()), Int(environment.__mxcsr & ~0x3F)]
            #else
                return [Int(fegetround())]
            #endif
        }
    }

    static let configurations = [
        #"{"_class_name": "DEISMultistepScheduler", "solver_order": 3, "beta_start": 0.00085, "beta_end": 0.012}"#,
        #"{"_class_name": "DEISMultistepScheduler", "solver_order": 3, "use_karras_sigmas": true, "beta_schedule": "scaled_linear"}"#,
        #"{"_class_name": "DEISMultistepScheduler", "solver_order": 2, "use_exponential_sigmas": true, "sigma_min": 0.029, "sigma_max": 14.6}"#,
        #"{"_class_name": "DEISMultistepScheduler", "use_flow_sigmas": true, "flow_shift": 3.1, "prediction_type": "flow_prediction"}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "use_beta_sigmas": true, "thresholding": true}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "use_lu_lambdas": true}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#,
        #"{"_class_name": "DPMSolverMultistepInverseScheduler", "solver_order": 3, "solver_type": "heun"}"#,
        #"{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true, "prediction_type": "v_prediction"}"#,
        #"{"_class_name": "DDIMInverseScheduler", "num_train_timesteps": 3, "trained_betas": [0.1, 0.3, 1e-320], "timestep_spacing": "trailing"}"#,
    ]

    /// Every scalar that is computed before a tensor is touched.
    struct Scalars: Equatable {
        var plans: [SamplingPlan] = []
        var tables: [Double] = []
        var levels: [NoiseLevel] = []
        var step: PlanRow?
        var update: PlanRow?
        var factor = 0.0

        init(_ json: String) throws {
            var scheduler = try SchedulerCatalog.makeScheduler(json: json)
            let most = min(scheduler.count, 23)
            for count in [1, 2, most] { plans.append(try scheduler.plan(.count(count))) }
            tables = scheduler.noiseSchedule.alphasCumprod + scheduler.noiseSchedule.sigmas
            levels = [try scheduler.level(atTimestep: 1)]
            try scheduler.setTimesteps(most)
            levels += try scheduler.timesteps.map { try scheduler.level(atTimestep: $0) }
            if let ddim = scheduler as? DDIMScheduler {
                plans.append(try ddim.plan(.count(7), eta: 0.3, useClippedModelOutput: true))
                step = try ddim.row(from: 700, to: 333, eta: 0.7)
            } else if let inverse = scheduler as? DDIMInverseScheduler {
                step = try inverse.row(to: 2, stepCount: 2)
            } else if let multistep = scheduler as? any MultistepScheduler {
                step = try multistep.conversion(ofStep: 0)
                update = try multistep.update(order: 1, ofStep: 0)
            }
            factor = Guidance(scale: 1, rescale: 0.7).factor(guidedVariance: 0.3, conditionalVariance: 0.7)
        }
    }

    @Test(arguments: configurations) func scalarsDoNotDependOnTheHost(_ json: String) throws {
        let expected = try Scalars(json)
        var before = fenv_t()
        fegetenv(&before)
        for host in Host.allCases {
            host.set()
            let set = Host.current
            let result = Result { try Scalars(json) }
            let found = Host.current
            fesetenv(&before)
            let scalars = try result.get()
            #expect(found == set, "\(host) isn't what it was")
            #expect(scalars == expected, "\(host) gives other bits")
            #expect(scalars.plans.map(\.fingerprint) == expected.plans.map(\.fingerprint), "\(host) gives other bits")
        }
    }

    /// The environments differ in effect, so a test that sets them tests something.
    @Test func hostsRoundDifferently() {
        var before = fenv_t()
        fegetenv(&before)
        defer { fesetenv(&before) }
        for host in Host.allCases {
            host.set()
            #expect(Host.current != [0, 0x1F80])
            fesetenv(&before)
        }
        Host.upward.set()
        // The compiler can't move this call; it could move a division out of the changed environment.
        let threeTenths = strtod("0.3", nil)
        fesetenv(&before)
        #expect(threeTenths > 0.3, "the nearest number is less, the next above is greater")
    }
}
