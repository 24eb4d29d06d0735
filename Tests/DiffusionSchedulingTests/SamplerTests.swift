// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// Samplers by name. The lists are the two programs' own, to the letter.
@Suite struct SamplerTests {
    /// AUTOMATIC1111 1.10, modules/sd_samplers_kdiffusion.py, sd_samplers_timesteps.py and sd_samplers_lcm.py.
    static let automatic1111 = [
        "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler", "LMS",
        "Heun",
        "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC", "LCM",
    ]
    /// modules/sd_schedulers.py.
    static let automatic1111Levels = [
        "Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal", "Align Your Steps",
        "Simple",
        "Normal", "DDIM", "Beta",
    ]
    /// ComfyUI, comfy/samplers.py.
    static let comfyUI = [
        "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0",
        "exp_heun_2_x0_sde",
        "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp",
        "dpmpp_sde",
        "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun",
        "dpmpp_2m_sde_heun_gpu",
        "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp",
        "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde",
        "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
    ]
    static let comfyUILevels = [
        "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic", "kl_optimal",
    ]

    /// Names without a scheduler.
    static let refused: Set = [
        "DPM++ 2S a", "DPM fast", "DPM adaptive", "Restart", "DDIM CFG++", "heunpp2", "exp_heun_2_x0", "exp_heun_2_x0_sde",
        "dpm_fast",
        "dpm_adaptive", "dpmpp_2s_ancestral", "ipndm", "ipndm_v", "res_multistep", "res_multistep_ancestral", "gradient_estimation",
        "er_sde", "seeds_2", "seeds_3", "sa_solver_pece",
    ]

    static func make(_ name: String, for model: (any PlannedScheduler)? = nil) throws -> any PlannedScheduler {
        try SchedulerCatalog.makeScheduler(named: name, for: model)
    }

    static func hub(_ model: String) throws -> any PlannedScheduler {
        try SchedulerCatalog.makeScheduler(contentsOf: HubConfigurationTests.folder.appending(path: model).path)
    }

    @Test func everyNameHasAnAnswer() throws {
        var answered = 0
        for name in Self.automatic1111 + Self.comfyUI {
            do throws(SchedulerError) {
                let scheduler = try SchedulerCatalog.makeScheduler(named: name)
                #expect(try scheduler.plan(.count(8)).stepCount >= 8)
                #expect(!Self.refused.contains(name) && !name.hasSuffix("cfg_pp"), "\(name)")
                answered += 1
            } catch .unsupportedScheduler(let text, _, let reason?) {
                #expect(text == name && (Self.refused.contains(name) || name.hasSuffix("cfg_pp")), "\(name)")
                #expect(reason.contains("nearest") || reason.contains("CFG++"), "\(reason)")
            } catch { Issue.record("\(name): \(error)") }
        }
        print(
            "\(answered) of the \(Self.automatic1111.count + Self.comfyUI.count) names of AUTOMATIC1111's and ComfyUI's samplers have a scheduler"
        )
        #expect(answered == 37)
    }

    @Test func namesOfLevels() throws {
        for levels in Self.automatic1111Levels where levels != "Align Your Steps" { _ = try Self.make("Euler a \(levels)") }
        for levels in Self.comfyUILevels { _ = try Self.make("euler_ancestral \(levels)") }
        for schedule in SigmaSchedule.allCases {
            let levels = try Self.make("lms \(schedule.rawValue)").plan(.count(6)).sigmas.dropLast()
            let expected = try schedule.sigmas(count: 6, of: LMSDiscreteScheduler().noiseSchedule)
            for (level, expected) in zip(levels, expected) { #expect(abs(level - expected) <= 1e-6 * expected, "\(schedule)") }
        }
        expectInvalid("sampler", "Euler Align Your Steps", allowed: "align_your_steps_sd15, align_your_steps_sdxl") {
            _ = try Self.make("Euler Align Your Steps")
        }
        // AUTOMATIC1111's defaults of each sampler.
        for (name, same) in [
            ("DPM++ 2M Automatic", "DPM++ 2M Karras"), ("DPM++ 3M SDE Automatic", "DPM++ 3M SDE Exponential"),
            ("Euler Automatic", "Euler Normal"), ("k_dpmpp_2m_ka", "DPM++ 2M Karras"), ("Euler Uniform", "euler normal"),
            ("Heun DDIM", "heun ddim_uniform"), ("LMS Polyexponential", "lms exponential"),
            ("k_dpmpp_2m_sde_heun_exp", "DPM++ 2M SDE Heun Exponential"),
        ] {
            #expect(try Self.make(name).configuration.jsonText == Self.make(same).configuration.jsonText, "\(name)")
        }
    }

    /// The keys that configure a class as a sampler.
    @Test func namesMeanConfigurations() throws {
        func check(_ name: String, _ className: String, _ values: [String: JSONValue]) throws {
            let members = try Self.make(name).configuration.json.members()
            #expect(members["_class_name"] == .string(className), "\(name)")
            for (key, value) in values { #expect((members[key] ?? .null) == value, "\(name): \(key)") }
        }
        try check(
            "DPM++ 2M Karras", "DPMSolverMultistepScheduler",
            [
                "algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": true,
                "diffusion_scheduling_sigma_schedule": .null,
            ])
        try check(
            "dpmpp_2m_sde_gpu", "DPMSolverMultistepScheduler", ["algorithm_type": "sde-dpmsolver++", "solver_type": "midpoint"])
        try check("DPM++ 2M SDE Heun", "DPMSolverMultistepScheduler", ["algorithm_type": "sde-dpmsolver++", "solver_type": "heun"])
        try check("DPM++ 3M SDE", "DPMSolverMultistepScheduler", ["solver_order": 3, "lower_order_final": false])
        try check(
            "dpmpp_2m sgm_uniform", "DPMSolverMultistepScheduler",
            ["use_karras_sigmas": false, "diffusion_scheduling_sigma_schedule": "sgm_uniform"])
        try check("Euler a Karras", "EulerAncestralDiscreteScheduler", ["diffusion_scheduling_sigma_schedule": "karras"])
        try check("uni_pc", "UniPCMultistepScheduler", ["solver_type": "bh1", "solver_order": 3])
        try check("PLMS", "PNDMScheduler", ["skip_prk_steps": true])
        try check("deis:tab3", "DEISMultistepScheduler", ["diffusion_scheduling_method": "t_ab", "solver_order": 4])
        try check("deis:tab3 quadratic", "DEISMultistepScheduler", ["diffusion_scheduling_sigma_schedule": "quadratic"])
        try check("deis:rho2Heun", "DEISMultistepScheduler", ["diffusion_scheduling_method": "rho_rk", "solver_order": 2])
        try check("DEISMultistepScheduler", "DEISMultistepScheduler", ["diffusion_scheduling_method": .null, "solver_order": 2])
        try check("HeunDiscreteScheduler Karras", "HeunDiscreteScheduler", ["use_karras_sigmas": true])
    }

    /// A name changes a model's sampling and leaves its training unchanged.
    @Test func modelsKeepTheirTraining() throws {
        let model = try SchedulerCatalog.makeScheduler(
            json: """
                {"_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
                 "prediction_type": "v_prediction", "algorithm_type": "sde-dpmsolver++", "solver_order": 3, "use_exponential_sigmas": true}
                """)
        let scheduler = try Self.make("DPM++ 2M Karras", for: model), members = try scheduler.configuration.json.members()
        #expect(scheduler.noiseSchedule.sigmas == model.noiseSchedule.sigmas)
        #expect(
            members["prediction_type"] == "v_prediction" && members["algorithm_type"] == "dpmsolver++"
                && members["solver_order"] == 2)
        #expect(members["use_karras_sigmas"] == true && members["use_exponential_sigmas"] == false)
        // A name without levels keeps the model's levels.
        #expect(try Self.make("DPM++ 2M", for: model).plan(.count(7)).sigmas == model.plan(.count(7)).sigmas)
        // k-diffusion's Karras levels for Stable Diffusion.
        let levels = try scheduler.plan(.count(5)).sigmas
        let ends = (greatest: pow(model.noiseSchedule.sigmas[999], 1 / 7.0), least: pow(model.noiseSchedule.sigmas[0], 1 / 7.0))
        for (k, level) in levels.dropLast().enumerated() {
            let expected = pow(ends.greatest + Double(k) / 4 * (ends.least - ends.greatest), 7)
            #expect(abs(level - expected) <= 1e-6 * expected)
        }
    }

    @Test func flowMatchingModels() throws {
        let model = try SchedulerCatalog.makeScheduler(
            json: #"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 1000}"#)
        #expect(try Self.make("euler", for: model).plan(.count(9)) == model.plan(.count(9)))
        for (name, className) in [
            ("Heun", "FlowMatchHeunDiscreteScheduler"), ("lcm", "FlowMatchLCMScheduler"),
            ("DPM++ 2M", "DPMSolverMultistepScheduler"),
            ("uni_pc", "UniPCMultistepScheduler"), ("sa_solver", "SASolverScheduler"), ("deis", "DEISMultistepScheduler"),
        ] {
            let scheduler = try Self.make(name, for: model), members = try scheduler.configuration.json.members()
            #expect(members["_class_name"] == .string(className) && (members["shift"] ?? members["flow_shift"]) == 3)
            let plan = try scheduler.plan(.count(9))
            #expect(plan.grid.process == .flow && plan.sigmas.allSatisfy { $0 <= 1 }, "\(name)")
            // A switch back to the model's own class.
            let back = try Self.make("Euler", for: scheduler)
            #expect(try back.plan(.count(9)) == model.plan(.count(9)), "\(name)")
        }
        #expect(try Self.make("DPM++ 2M Karras", for: model).plan(.count(10)).sigmas[0] == Double(Float(1 - 1e-6)))
        let simple = try Self.make("dpmpp_2m simple", for: model).plan(.count(10)).sigmas
        #expect(abs(simple[5] - 3 * 0.5 / (1 + 2 * 0.5)) < 1e-7)
        #expect(try Self.make("euler simple", for: model).plan(.count(10)).sigmas[5] == simple[5])
        #expect(
            "\(try #require(fault { _ = try Self.make("LMS", for: model) }))"
                == "scheduler LMS is not supported: the model is one of flow matching, which LMSDiscreteScheduler doesn't know")
        let dynamic = try SchedulerCatalog.makeScheduler(
            json: #"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#)
        #expect("\(try #require(fault { _ = try Self.make("sa_solver", for: dynamic) }))".contains("use_dynamic_shifting"))
    }

    @Test func otherTrainings() throws {
        let model = try EDMEulerScheduler()
        #expect(try Self.make("EDMEulerScheduler", for: model).configuration.jsonText == model.configuration.jsonText)
        for name in ["DPM++ 2M", "Euler"] {
            #expect(
                "\(try #require(fault { _ = try Self.make(name, for: model) }))".contains(
                    "EDMEulerScheduler describes the model's training"))
        }
        let betas = try EulerDiscreteScheduler()
        #expect(fault { _ = try Self.make("EDMEulerScheduler", for: betas) } != nil)
    }

    /// Each name leads to a scheduler whose names include it.
    @Test func namesLeadBack() throws {
        for name in SchedulerCatalog.samplerNames {
            #expect(SchedulerCatalog.samplerNames(of: try Self.make(name)).contains(name), "\(name)")
            for levels in Self.comfyUILevels {
                guard let scheduler = try? Self.make("\(name) \(levels)") else { continue }
                let names = SchedulerCatalog.samplerNames(of: scheduler)
                #expect(names.contains { $0.hasSuffix(" \(levels)") }, "\(name) \(levels): \(names)")
                for other in names {
                    #expect(try Self.make(other).configuration.jsonText == scheduler.configuration.jsonText, "\(other)")
                }
            }
        }
        #expect(SchedulerCatalog.samplerNames(of: try Self.make("DPM++ 2M SDE Karras")).first == "DPM++ 2M SDE Karras")
        #expect(SchedulerCatalog.samplerNames(of: try makeDEIS()) == [])
        #expect(SchedulerCatalog.samplerNames(of: try EDMEulerScheduler()) == [])
        let beta = try SchedulerCatalog.makeScheduler(named: "Euler", overrides: ["use_beta_sigmas": true])
        #expect(SchedulerCatalog.samplerNames(of: beta) == [], "diffusers' beta levels aren't ComfyUI's")
    }

    /// Every sampler for every well-known model: it plans 20 steps, or gives a reason.
    @Test func everySamplerForEveryModel() throws {
        var models = 0, made = 0, refusals = 0
        for model in try HubConfigurationTests.requests().keys.sorted() {
            guard let scheduler = try? Self.hub(model) else { continue }
            for (place, sampler) in SchedulerCatalog.samplers.enumerated() {
                // Each model meets each sampler, with the levels in rotation.
                let name = sampler.allNames[0] + ["", " karras", " sgm_uniform"][(place + models) % 3]
                do throws(SchedulerError) {
                    let scheduler = try SchedulerCatalog.makeScheduler(named: name, for: scheduler)
                    let mu = (try? scheduler.configuration.json.members())?["use_dynamic_shifting"] == true ? 0.8 : nil
                    let sigmas = try scheduler.plan(.count(20, mu: mu)).sigmas
                    #expect(sigmas.allSatisfy { $0.isFinite }, "\(model) \(name)")
                    made += 1
                } catch {
                    refusals += 1
                }
            }
            models += 1
        }
        print("samplers by name for the models' scheduler files: \(made) planned, \(refusals) refused")
        #expect(made > 1000)
    }

    @Test func whatIsNoName() throws {
        for name in ["", "Eulerr", "DPM++ 2M Best", "karras", String(repeating: "euler", count: 100_000), "欧拉"] {
            guard case .unsupportedScheduler(_, let supported, let reason?)? = fault({ _ = try Self.make(name) }) else {
                Issue.record("\(name.prefix(20)) is a name")
                continue
            }
            #expect(supported.contains("DPM++ 2M") && supported.contains("DEISMultistepScheduler"))
            #expect(reason.hasPrefix("there is no such name; nearest is "))
        }
        for (name, nearest) in [
            ("Eulerr", "Euler"), ("DPM++ 2M Karas", "DPM++ 2M karras"), ("unipc_bh3", "uni_pc_bh2"),
            ("DEISMultistepSheduler", "DEISMultistepScheduler"),
            ("dpmpp2m_sde_karass", "DPM++ 2M SDE karras"), ("deis:tab4", "DEIS tAB2"),
        ] {
            let fault = try #require(fault { _ = try Self.make(name) })
            #expect("\(fault)" == "scheduler \(name) is not supported: there is no such name; nearest is \(nearest)")
        }
        expectInvalid("sampler", "LCM Karras", allowed: "without karras: its scheduler chooses its levels itself") {
            _ = try Self.make("LCM Karras")
        }
    }
}
