"""Noise, velocity, sample and flow, against diffusers' own schedulers."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from diffusers.training_utils import compute_loss_weighting_for_sd3
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from a4a.backbones.prediction import (
    FlowPrediction,
    NoisePrediction,
    SamplePrediction,
    TimestepDensity,
    VelocityPrediction,
    prediction_for,
    split_variance,
)
from a4a.baselines import DeltaSamplingPipeline
from a4a.errors import InputError
from a4a.pipeline import ImagePromptPipeline
from a4a.training.denoising import Denoising, ObjectiveConfig

SCHEDULERS = {
    "noise": DDPMScheduler(),
    "velocity": DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear"),
    "sample": DDPMScheduler(prediction_type="sample"),
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
}
KINDS = {name: prediction_for(scheduler) for name, scheduler in SCHEDULERS.items()}
DIFFUSION = ["noise", "velocity", "sample"]

kinds = st.sampled_from(list(KINDS))
seeds = st.integers(0, 1000)
shares = st.floats(0.02, 0.98)


def latents_and_noise(seed, rows=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, 4, 3, 3, generator=generator, dtype=torch.float64)


def timesteps_at(kind, share, rows=2):
    if kind == "flow":
        return torch.full((rows,), 1000 * share, dtype=torch.float64)
    return torch.full((rows,), int(1000 * share))


@pytest.mark.parametrize(
    ("scheduler", "kind"),
    [
        (DDIMScheduler(), NoisePrediction),
        (EulerDiscreteScheduler(prediction_type="v_prediction"), VelocityPrediction),
        (DDPMScheduler(prediction_type="sample"), SamplePrediction),
        (FlowMatchEulerDiscreteScheduler(), FlowPrediction),
        (FlowMatchHeunDiscreteScheduler(), FlowPrediction),
        (
            DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
            FlowPrediction,
        ),
    ],
    ids=lambda p: type(p).__name__ if isinstance(p, object) and not isinstance(p, type) else p.__name__,
)
def test_the_scheduler_chooses_the_prediction(scheduler, kind):
    assert type(prediction_for(scheduler)) is kind


def test_an_unknown_prediction_is_an_input_error():
    scheduler = DDPMScheduler()
    scheduler.register_to_config(prediction_type="score")
    with pytest.raises(InputError, match="DDPMScheduler predicts 'score'; expected one of epsilon, v_prediction"):
        prediction_for(scheduler)


@pytest.mark.parametrize("kind", DIFFUSION)
def test_diffusion_noises_and_targets_as_diffusers_does(kind):
    scheduler, t = DDPMScheduler.from_config(SCHEDULERS[kind].config), torch.tensor([3, 800])
    x0, noise = latents_and_noise(0)
    expected = {"noise": noise, "velocity": scheduler.get_velocity(x0, noise, t), "sample": x0}[kind]
    assert torch.equal(KINDS[kind].target(x0, noise, t), expected)
    assert torch.equal(KINDS[kind].add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t))
    torch.testing.assert_close(KINDS[kind].scheduler.alphas_cumprod, SCHEDULERS[kind].alphas_cumprod)


def test_flow_noises_as_its_scheduler_does():
    scheduler, (x0, noise) = SCHEDULERS["flow"], latents_and_noise(0, rows=4)
    t = scheduler.timesteps[[0, 200, 700, 999]]
    torch.testing.assert_close(
        KINDS["flow"].add_noise(x0, noise, t), scheduler.scale_noise(x0, t, noise), atol=1e-6, rtol=1e-6
    )
    assert torch.equal(KINDS["flow"].target(x0, noise, t), noise - x0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_draws_time_steps_as_its_scheduler_spaces_them(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    torch.manual_seed(0)
    drawn = prediction_for(scheduler).sample_timesteps(50_000, "cpu", TimestepDensity())
    quantiles = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(drawn.quantile(quantiles), scheduler.timesteps.quantile(quantiles), atol=10.0, rtol=0.0)
    assert scheduler.timesteps.min() * 0.999 <= drawn.min()
    assert drawn.max() <= 1000


def test_each_density_favours_its_own_time_steps():
    for kind in ("noise", "flow"):
        prediction = prediction_for(FlowMatchEulerDiscreteScheduler()) if kind == "flow" else KINDS[kind]

        def drawn(*density, prediction=prediction):
            torch.manual_seed(0)
            return prediction.sample_timesteps(20_000, "cpu", TimestepDensity(*density)).float()

        assert drawn().std() == pytest.approx(289, abs=5)
        assert drawn("logit_normal").std() == pytest.approx(208, abs=5)
        assert drawn("logit_normal", 1.0).median() == pytest.approx(731, abs=10)  # sigmoid(1): favours noise
        assert drawn("mode").std() < 0.95 * drawn().std()


@given(kind=kinds, share=shares, seed=seeds)
def test_the_target_is_the_mixture_of_sample_and_noise(kind, share, seed):
    prediction, (x0, noise), t = KINDS[kind], latents_and_noise(seed), timesteps_at(kind, share)
    levels = (level.to(x0).view(-1, 1, 1, 1) for level in prediction.levels(t))
    a, b = prediction.mixture(*levels)
    torch.testing.assert_close(prediction.target(x0, noise, t), a * x0 + b * noise, atol=1e-5, rtol=1e-5)


@given(kind=kinds, share=st.floats(0.02, 0.8), seed=seeds)
def test_clean_latents_are_recovered_from_a_perfect_prediction(kind, share, seed):
    prediction, (x0, noise), t = KINDS[kind], latents_and_noise(seed), timesteps_at(kind, share)
    noisy = prediction.add_noise(x0, noise, t)
    found = prediction.clean_latents(noisy, prediction.target(x0, noise, t), t)
    torch.testing.assert_close(found, x0, atol=1e-3, rtol=1e-3)


@given(kind=kinds, other=kinds, share=st.floats(0.02, 0.6))  # noise that all four schedules reach
def test_the_matching_time_step_of_another_schedule_leads_back(kind, other, share):
    one, two, t = KINDS[kind], KINDS[other], timesteps_at(kind, share)
    back = one.matching_timestep(two, two.matching_timestep(one, t[0]))
    assert float(back) == pytest.approx(float(t[0]), abs=3)


@given(kind=kinds, other=kinds, share=shares, seed=seeds)
def test_a_difference_of_predictions_is_converted(kind, other, share, seed):
    """Two predictions at the same noisy latents: noise changes by the same in every kind."""
    one, two, (first, second) = KINDS[kind], KINDS[other], latents_and_noise(seed)
    log_snr = one.log_snr(timesteps_at(kind, share)[0])

    def predicted(prediction, noise):  # at noisy latents x of norm 1 for this kind of schedule
        alpha, sigma = prediction.levels_at(log_snr)
        a, b = prediction.mixture(alpha, sigma)
        return a * (prediction.norm(log_snr) - sigma * noise) / alpha + b * noise

    factor = one.noise_per_prediction(log_snr) / two.noise_per_prediction(log_snr)
    given_, expected = (predicted(p, second) - predicted(p, first) for p in (one, two))
    torch.testing.assert_close(given_ * factor, expected, atol=1e-6, rtol=1e-6)
    assert factor == 1 or kind != other


@pytest.mark.parametrize(("kind", "divisor"), [("noise", lambda s: s), ("velocity", lambda s: s + 1)])
def test_min_snr_weighs_as_its_paper_does(kind, divisor):
    t, losses = torch.tensor([10, 400, 900]), torch.tensor([1.0, 2.0, 3.0])
    signal = SCHEDULERS[kind].alphas_cumprod[t]
    snr = signal / (1 - signal)
    torch.testing.assert_close(
        KINDS[kind].weigh(losses, t, "min_snr", 5.0), losses * snr.clamp(max=5) / divisor(snr), atol=1e-4, rtol=1e-4
    )


def test_min_snr_of_a_sample_prediction_is_the_clamped_ratio():
    t = torch.tensor([10, 400, 900])
    signal = SCHEDULERS["sample"].alphas_cumprod[t]
    found = KINDS["sample"].weigh(torch.ones(3), t, "min_snr", 5.0)
    torch.testing.assert_close(found, (signal / (1 - signal)).clamp(max=5), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("weighting", ["none", "sigma_sqrt", "cosmap"])
def test_flow_weighs_as_diffusers_does(weighting):
    t = torch.tensor([100.0, 500.0, 1000.0])
    found = KINDS["flow"].weigh(torch.ones(3), t, weighting, 5.0)
    torch.testing.assert_close(found, compute_loss_weighting_for_sd3(weighting, t / 1000))


@pytest.mark.parametrize(("kind", "weighting"), [("flow", "min_snr"), ("noise", "cosmap")])
def test_weights_that_a_prediction_lacks_are_an_input_error(kind, weighting):
    with pytest.raises(InputError, match=f"objective.weighting is '{weighting}'.* set it to one of none"):
        KINDS[kind].check_weighting(weighting)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_denoiser_has_no_loss(sd15, kind):
    pipe = tiny_models.with_own_denoiser(sd15)
    pipe.scheduler = SCHEDULERS[kind]
    backbone = tiny_models.backbone_for(pipe)
    objective = Denoising(backbone, None, ObjectiveConfig())
    batch = tiny_models.Samples(backbone, 3).batch(torch.arange(3))
    prediction = objective.prediction

    def exact(noisy, timesteps, *_):  # the latents are known, so the noise is, too
        alpha, sigma = (level.float().view(-1, 1, 1, 1) for level in prediction.levels(timesteps))
        return prediction.target(batch["latents"], (noisy - alpha * batch["latents"]) / sigma, timesteps)

    backbone.predict = exact
    assert objective(batch) == pytest.approx(0, abs=1e-4)
    backbone.predict = lambda noisy, *_: torch.zeros_like(noisy)
    assert objective(batch) > 0.1


def test_learned_variance_is_split_off():
    output = torch.arange(8.0).view(1, 8, 1, 1)
    prediction, variance = split_variance(output, 4)
    assert torch.equal(torch.cat([prediction, variance], 1), output)
    assert split_variance(output, 8)[1].shape[1] == 0


def test_delta_sampling_between_diffusion_and_flow_runs_at_the_same_noise(sd15):
    """A flow model steered by a noise model: the same x0 and noise, in latents that are scaled differently."""
    pipe = tiny_models.with_own_denoiser(sd15)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    base = ImagePromptPipeline(sd15, tiny_models.ip_adapter(sd15))
    delta = DeltaSamplingPipeline(base, pipe)
    step, log_snr = delta._same_noise(torch.tensor(600.0))
    alpha, sigma = base.backbone.prediction.levels(step)
    assert float(sigma / alpha) == pytest.approx(0.6 / 0.4, rel=0.02)
    x0, noise = latents_and_noise(0)
    flow, diffusion = 0.4 * x0 + 0.6 * noise, alpha * x0 + sigma * noise
    torch.testing.assert_close(flow * delta._latents_ratio(log_snr), diffusion, atol=0.05, rtol=0.05)
