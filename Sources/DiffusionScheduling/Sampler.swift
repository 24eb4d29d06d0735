// SPDX-License-Identifier: Apache-2.0

/// A sampler by the names that people pass around: those of AUTOMATIC1111's web UI, of ComfyUI, and of papers.
///
/// ```swift
/// let model = try SchedulerCatalog.makeScheduler(contentsOf: "sdxl/scheduler")
/// let scheduler = try SchedulerCatalog.makeScheduler(named: "DPM++ 2M Karras", for: model)
/// ```
///
/// A name of noise levels may follow, and case, spaces and punctuation don't matter: "DPM++ 2M SDE Karras", "euler_ancestral
/// sgm_uniform" and "deis:tab3" are names. Without a name of levels, the model's configuration decides.
public struct Sampler: Sendable {
    /// The label in AUTOMATIC1111's web UI; nil if it has none.
    public let label: String?
    /// The other names, ComfyUI's first.
    public let names: [String]
    /// The class of the scheduler.
    public let className: String
    /// The class for models of flow matching; nil: ``className``, if that knows flow levels.
    public let flowClassName: String?
    /// The configuration values that define this sampler.
    public let values: [String: JSONValue]
    /// The levels that AUTOMATIC1111's word Automatic stands for.
    let automatic: SigmaSchedule

    init(
        _ label: String?, _ names: [String], _ className: String, flow flowClassName: String? = nil,
        _ values: [String: JSONValue] = [:],
        automatic: SigmaSchedule = .normal
    ) {
        self.label = label
        self.names = names
        self.className = className
        self.flowClassName = flowClassName
        self.values = values
        self.automatic = automatic
    }

    /// All names.
    public var allNames: [String] { (label.map { [$0] } ?? []) + names }
}

extension SchedulerCatalog {
    /// The samplers that have names besides that of their class.
    public static let samplers: [Sampler] = [
        Sampler("Euler", ["euler"], "EulerDiscreteScheduler", flow: "FlowMatchEulerDiscreteScheduler"),
        Sampler("Euler a", ["euler_ancestral"], "EulerAncestralDiscreteScheduler"),
        Sampler("Heun", ["heun"], "HeunDiscreteScheduler", flow: "FlowMatchHeunDiscreteScheduler"),
        Sampler("LMS", ["lms"], "LMSDiscreteScheduler"),
        Sampler("DPM2", ["dpm_2"], "KDPM2DiscreteScheduler", automatic: .karras),
        Sampler("DPM2 a", ["dpm_2_ancestral"], "KDPM2AncestralDiscreteScheduler", automatic: .karras),
        Sampler("DPM++ 2M", ["dpmpp_2m"], "DPMSolverMultistepScheduler", dpmSolver("dpmsolver++"), automatic: .karras),
        Sampler("DPM++ SDE", ["dpmpp_sde", "dpmpp_sde_gpu"], "DPMSolverSDEScheduler", automatic: .karras),
        Sampler(
            "DPM++ 2M SDE", ["dpmpp_2m_sde", "dpmpp_2m_sde_gpu"], "DPMSolverMultistepScheduler", dpmSolver("sde-dpmsolver++"),
            automatic: .exponential),
        Sampler(
            "DPM++ 2M SDE Heun", ["dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"], "DPMSolverMultistepScheduler",
            dpmSolver("sde-dpmsolver++", type: "heun"), automatic: .exponential),
        Sampler(
            "DPM++ 3M SDE", ["dpmpp_3m_sde", "dpmpp_3m_sde_gpu"], "DPMSolverMultistepScheduler",
            dpmSolver("sde-dpmsolver++", order: 3), automatic: .exponential),
        Sampler("UniPC", ["uni_pc"], "UniPCMultistepScheduler", ["solver_order": 3, "solver_type": "bh1", "predict_x0": true]),
        Sampler(nil, ["uni_pc_bh2"], "UniPCMultistepScheduler", ["solver_order": 3, "solver_type": "bh2", "predict_x0": true]),
        Sampler("DDIM", ["ddim"], "DDIMScheduler"),
        Sampler("PLMS", [], "PNDMScheduler", ["skip_prk_steps": true]),
        Sampler(nil, ["ddpm"], "DDPMScheduler"),
        Sampler("LCM", ["lcm"], "LCMScheduler", flow: "FlowMatchLCMScheduler"),
        Sampler(nil, ["tcd"], "TCDScheduler"),
        Sampler(
            nil, ["sa_solver"], "SASolverScheduler",
            ["predictor_order": 3, "corrector_order": 4, "algorithm_type": "data_prediction"]),
        // ComfyUI's is the paper's tAB of degree 2.
        Sampler(nil, ["deis", "DEIS tAB2"], "DEISMultistepScheduler", deis("t_ab", order: 3)),
        Sampler(nil, ["DEIS tAB1"], "DEISMultistepScheduler", deis("t_ab", order: 2)),
        Sampler(nil, ["DEIS tAB3"], "DEISMultistepScheduler", deis("t_ab", order: 4)),
        Sampler(nil, ["DEIS rhoAB1"], "DEISMultistepScheduler", deis("rho_ab", order: 2)),
        Sampler(nil, ["DEIS rhoAB2"], "DEISMultistepScheduler", deis("rho_ab", order: 3)),
        Sampler(nil, ["DEIS rhoAB3"], "DEISMultistepScheduler", deis("rho_ab", order: 4)),
        Sampler(nil, ["DEIS rho2Heun"], "DEISMultistepScheduler", deis("rho_rk", order: 2)),
        Sampler(nil, ["DEIS rho3Kutta"], "DEISMultistepScheduler", deis("rho_rk", order: 3)),
        Sampler(nil, ["DEIS rho4RK"], "DEISMultistepScheduler", deis("rho_rk", order: 4)),
    ]

    private static func dpmSolver(_ algorithm: JSONValue, order: JSONValue = 2, type: JSONValue = "midpoint") -> [String: JSONValue]
    {
        var values = ["algorithm_type": algorithm, "solver_order": order, "solver_type": type, "final_sigmas_type": "zero"]
        // k-diffusion lowers the order for the last step only, which is of order 1 here in any case.
        if order == 3 { values["lower_order_final"] = false }
        return values
    }

    private static func deis(_ method: JSONValue, order: JSONValue) -> [String: JSONValue] {
        ["diffusion_scheduling_method": method, "solver_order": order, "diffusion_scheduling_final_sigmas_type": "zero"]
    }

    /// Samplers without a scheduler, and the nearest that have one.
    static let refusedSamplers: [(names: [String], reason: String)] = [
        (
            [
                "DDIM CFG++", "ddim_cfg_pp", "euler_cfg_pp", "euler_ancestral_cfg_pp", "dpmpp_2s_ancestral_cfg_pp",
                "dpmpp_2m_cfg_pp",
                "res_multistep_cfg_pp", "res_multistep_ancestral_cfg_pp", "gradient_estimation_cfg_pp",
            ],
            "its steps read the model's output without guidance besides the guided one; without CFG++ there are "
                + "DDIM, euler, euler_ancestral and DPM++ 2M"
        ),
        (
            ["DPM++ 2S a", "dpmpp_2s_ancestral"],
            "nearest are DPM++ SDE, whose evaluation between two levels has noise too, and DPMSolverSinglestepScheduler, which adds none"
        ),
        (["DPM fast", "dpm_fast"], "nearest is DPMSolverSinglestepScheduler with solver_order 3 and algorithm_type dpmsolver"),
        (
            ["DPM adaptive", "dpm_adaptive"],
            "the length of its steps depends on the samples; nearest is DPMSolverSinglestepScheduler"
        ),
        (["Restart"], "it goes back to levels that it has passed; nearest is Heun, whose steps it takes"),
        (["heunpp2"], "its last steps ask the model three times; nearest is Heun"),
        (["exp_heun_2_x0"], "nearest is DPMSolverSinglestepScheduler with solver_type heun"),
        (["exp_heun_2_x0_sde", "seeds_2", "seeds_3"], "nearest is DPM++ SDE"),
        (
            ["ipndm", "ipndm_v"],
            "nearest is LMS, whose weights follow from the levels; IPNDMScheduler is for models of v prediction"
        ),
        (["res_multistep"], "nearest is DPM++ 2M"),
        (["res_multistep_ancestral"], "nearest is DPM++ 2M SDE"),
        (["gradient_estimation"], "nearest is LMS"),
        (["er_sde"], "nearest is DPM++ 3M SDE"),
        (["sa_solver_pece"], "it asks the model again after each correction; nearest is sa_solver"),
    ]
}
