"""Figures of slides and patients: against scikit-learn and loops, over the right unit, beside their controls."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, r2_score, roc_auc_score

from core.evaluation.agreement import labels_auroc, quadratic_kappa, r2
from core.evaluation.bag_controls import (
    linear_classes,
    linear_labels,
    linear_number,
    linear_risk,
    mean_of_instances,
)
from core.evaluation.bags import (
    Predicted,
    bag_classification,
    bag_multilabel,
    bag_ordinal,
    bag_regression,
    bag_survival,
    best_threshold,
    validated_threshold,
)
from core.evaluation.cohort import Classes, Cohort, as_control
from core.evaluation.intervals import bootstrap
from core.evaluation.metrics import point, statistic
from core.evaluation.tables import read_results, write_results
from core.mil.bags import Bag
from core.types import Evaluation, Figure, UserError

COUNTS = np.random.default_rng(9).integers(0, 4, size=40)
TUMOUR = Classes(("normal", "tumour"), np.array([30, 10]))
GRADES = Classes(("low", "middle", "high"), np.array([10, 30, 20]))


def cohort(bags: int = 40, patients: int = 20) -> Cohort:
    units = [f"patient{index % patients:02d}" for index in range(bags)]
    return Cohort([f"slide{index}" for index in range(bags)], units, "patient", "synthetic", draws=200)


def predicted(classes: int = 2, seed: int = 0) -> Predicted:
    """Probabilities that know something of a label which both slides of a patient share."""
    random = np.random.default_rng(seed)
    labels = np.tile(random.integers(classes, size=20), 2)
    scores = np.eye(classes)[labels] + random.gumbel(size=(40, classes))
    values = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return Predicted(values, {"label": labels}, cohort())


def figure(evaluation: Evaluation, short: str) -> Figure:
    return next(figure for figure in evaluation.figures if figure.name == f"{evaluation.name}/{short}")


class TestStatistics:
    def test_kappa_equals_scikit_learn_also_under_weights(self) -> None:
        random = np.random.default_rng(0)
        guess, truth = random.integers(4, size=40), random.integers(4, size=40)
        expected = cohen_kappa_score(truth, guess, weights="quadratic", sample_weight=COUNTS)
        assert quadratic_kappa(guess, truth)(COUNTS[None].astype(float))[0] == pytest.approx(expected)
        assert point(quadratic_kappa(truth, truth), 40) == 1

    def test_kappa_of_one_grade_is_unknown(self) -> None:
        assert np.isnan(point(quadratic_kappa([1, 1], [1, 1]), 2))

    def test_r2_equals_scikit_learn_also_under_weights_and_far_from_zero(self) -> None:
        random = np.random.default_rng(0)
        truth = random.normal(size=40) + 1e6
        guess = truth + random.normal(size=40)
        expected = r2_score(truth, guess, sample_weight=COUNTS)
        assert r2(guess, truth)(COUNTS[None].astype(float))[0] == pytest.approx(expected, rel=1e-6)
        assert np.isnan(point(r2([1.0, 2], [3.0, 3]), 2))

    def test_auroc_of_labels_equals_scikit_learn_without_the_unknown(self) -> None:
        random = np.random.default_rng(0)
        truth, score = random.integers(2, size=(40, 3)).astype(float), random.integers(5, size=(40, 3)) / 5
        truth[random.random((40, 3)) < 0.2] = np.nan
        expected = []
        for column in range(3):
            known = ~np.isnan(truth[:, column])
            weights = COUNTS[known]
            expected.append(roc_auc_score(truth[known, column], score[known, column], sample_weight=weights))
        assert labels_auroc(score, truth)(COUNTS[None].astype(float))[0] == pytest.approx(np.mean(expected))


class TestPatients:
    def test_a_patient_is_the_mean_of_its_slides(self) -> None:
        slides = predicted()
        patients = slides.by_patient()
        for row, patient in enumerate(patients.cohort.ids):
            mine = [index for index, unit in enumerate(slides.cohort.units) if unit == patient]
            np.testing.assert_allclose(patients.values[row], slides.values[mine].mean(axis=0))
            assert patients.labels["label"][row] == slides.labels["label"][mine[0]]
        assert len(patients.cohort.ids) == 20

    def test_slides_that_disagree_are_named(self) -> None:
        slides = predicted()
        slides.labels["label"][3] = 1 - slides.labels["label"][3]
        with pytest.raises(UserError, match=r"patient03.*1 such units.*label"):
            slides.by_patient()

    def test_missing_numbers_agree(self) -> None:
        values = Predicted(np.zeros(2), {"label": np.array([np.nan, np.nan])}, Cohort(["a", "b"], ["p", "p"]))
        assert len(values.by_patient().cohort.ids) == 1

    def test_a_prediction_that_is_not_finite_is_named(self) -> None:
        with pytest.raises(UserError, match="slide7"):
            Predicted(np.where(np.arange(40) == 7, np.nan, 0.0), {}, cohort())


class TestClassification:
    def test_auroc_and_its_interval_are_those_of_patients(self) -> None:
        slides = predicted()
        evaluation = bag_classification("slide", slides, TUMOUR)
        found = figure(evaluation, "macro_auroc")
        assert found.value == pytest.approx(roc_auc_score(slides.labels["label"], slides.values[:, 1]))
        assert (found.n, found.units, found.unit, found.note) == (40, 20, "patient", "synthetic")
        assert found.controls == {"chance": 0.5, "majority": 0.5}
        metric = statistic(_metric(evaluation, "slide/macro_auroc"), evaluation.items)
        assert (found.low, found.high) == bootstrap(metric, slides.cohort.units, 200)[1:]
        assert figure(bag_classification("patient", slides.by_patient(), TUMOUR), "macro_auroc").n == 20

    def test_slides_without_a_label_are_counted_and_left_out(self) -> None:
        slides = predicted()
        slides.labels["label"][:3] = -1
        evaluation = bag_classification("slide", slides, TUMOUR)
        assert len(evaluation.items) == 37
        assert evaluation.details["left_out"] == {"without a label": 3}

    def test_a_threshold_is_used_as_it_is_given_and_none_is_assumed(self) -> None:
        slides = predicted()
        truth, called = slides.labels["label"] == 1, slides.values[:, 1] >= 0.3
        evaluation = bag_classification("slide", slides, TUMOUR, threshold=0.3)
        assert figure(evaluation, "sensitivity").value == pytest.approx(called[truth].mean())
        assert figure(evaluation, "specificity").value == pytest.approx((~called)[~truth].mean())
        both = (called[truth].mean() + (~called)[~truth].mean()) / 2
        assert figure(evaluation, "balanced_accuracy_at_threshold").value == pytest.approx(both)
        assert evaluation.details["threshold"] == 0.3
        assert "slide/sensitivity" not in {f.name for f in bag_classification("slide", slides, TUMOUR).figures}

    @pytest.mark.parametrize("seed", range(4))
    def test_the_best_threshold_equals_a_search(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        labels, scores = np.array([0, 1] * 10 + [-1] * 3), np.round(random.random(23), 1)
        threshold = best_threshold(scores, labels)

        def accuracy(cut: float) -> float:
            sides = [(scores[labels == 1] >= cut).mean(), (scores[labels == 0] < cut).mean()]
            return float(np.mean(sides))

        assert accuracy(threshold) == pytest.approx(max(accuracy(cut) for cut in np.linspace(-0.01, 1.01, 300)))

    def test_a_threshold_needs_both_classes(self) -> None:
        with pytest.raises(UserError, match="both classes"):
            best_threshold([0.1, 0.2], [1, -1])


def test_ordinal_reports_kappa_and_distance_beside_blind_controls() -> None:
    slides = predicted(3)
    truth, guess = slides.labels["label"], slides.values.argmax(axis=1)
    evaluation = bag_ordinal("slide", slides, GRADES)
    kappa, distance = figure(evaluation, "quadratic_kappa"), figure(evaluation, "distance_in_grades")
    assert kappa.value == pytest.approx(cohen_kappa_score(truth, guess, weights="quadratic"))
    assert kappa.controls == {"chance": 0, "majority": 0}
    assert distance.value == pytest.approx(np.abs(truth - guess).mean())
    assert distance.controls["majority"] == pytest.approx(np.abs(truth - 1).mean())
    assert distance.controls["chance"] == pytest.approx(np.mean([[abs(t - g) for g in range(3)] for t in truth]))


def test_multilabel_reports_every_label_and_their_mean() -> None:
    random = np.random.default_rng(0)
    truth, values = random.integers(2, size=(40, 2)), random.random((40, 2))
    labels = {"label.necrosis": truth[:, 0].copy(), "label.mitosis": truth[:, 1].copy()}
    labels["label.necrosis"][:4] = -1
    labels["label.mitosis"][:2] = -1
    evaluation = bag_multilabel("slide", Predicted(values, labels, cohort()), ["necrosis", "mitosis"])
    areas = [roc_auc_score(truth[4:, 0], values[4:, 0]), roc_auc_score(truth[2:, 1], values[2:, 1])]
    assert figure(evaluation, "auroc.necrosis").value == pytest.approx(areas[0])
    assert figure(evaluation, "auroc.necrosis").n == 38  # two of them are unknown for this label alone
    assert figure(evaluation, "auroc.mitosis").value == pytest.approx(areas[1])
    assert figure(evaluation, "macro_auroc").value == pytest.approx(np.mean(areas))
    assert evaluation.details["left_out"] == {"without any label": 2}


def test_two_grades_and_findings_have_figures_at_thresholds_of_validation_bags() -> None:
    slides = predicted()
    truth, score = slides.labels["label"], slides.values[:, 1]
    grades = bag_ordinal("slide", slides, TUMOUR, 0.3)
    own = bag_classification("slide", slides, TUMOUR, 0.3)
    for short in ("sensitivity", "specificity", "balanced_accuracy_at_threshold"):
        assert figure(grades, short).value == figure(own, short).value
    assert grades.details["threshold"] == 0.3
    assert "slide/sensitivity" in grades.details["metrics"]

    labels = {"label.a": np.where(np.arange(40) < 4, -1, truth), "label.b": truth}
    found = {"a": validated_threshold(score, labels["label.a"]), "b": validated_threshold(score, np.ones(40))}
    assert found == {"a": best_threshold(score[4:], truth[4:]), "b": None}
    evaluation = bag_multilabel("slide", Predicted(slides.values[:, [1, 0]], labels, cohort()), ["a", "b"], found)
    assert found["a"] is not None
    said = score[4:] >= found["a"]
    assert figure(evaluation, "sensitivity.a").value == pytest.approx(said[truth[4:] == 1].mean())
    assert figure(evaluation, "specificity.a").value == pytest.approx((~said)[truth[4:] == 0].mean())
    assert figure(evaluation, "sensitivity.a").controls == {"chance": 0.5}
    assert not [one.name for one in evaluation.figures if one.name.endswith("y.b")]
    assert evaluation.details["thresholds"] == found


def test_regression_reports_error_and_r2_beside_the_mean_of_training() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(50, 10, size=40)
    guess, train = truth + random.normal(0, 3, 40), np.array([40.0, np.nan, 41, 54])  # mean 45, median 41
    evaluation = bag_regression("slide", Predicted(guess, {"label": truth}, cohort()), train)
    error, share = figure(evaluation, "mean_absolute_error"), figure(evaluation, "r2")
    assert error.value == pytest.approx(np.abs(guess - truth).mean())
    assert error.controls["training_mean"] == pytest.approx(np.abs(truth - 45).mean())
    assert error.controls["training_median"] == pytest.approx(np.abs(truth - 41).mean())
    assert share.value == pytest.approx(r2_score(truth, guess))
    assert share.controls["training_mean"] == pytest.approx(r2_score(truth, np.full(40, 45.0)))


def test_survival_reports_concordance_and_the_groups_of_a_given_cut() -> None:
    random = np.random.default_rng(0)
    risk = np.tile(random.normal(size=20), 2)
    time = random.exponential(np.exp(-2 * risk[:20]))
    labels = {"time": np.tile(time, 2), "event": np.tile(time < 3, 2)}
    slides = Predicted(risk + random.normal(0, 0.1, 40), labels, cohort())
    evaluation = bag_survival("patient", slides.by_patient(), cut=0.2, controls={"mean_of_instances": {"c_index": 0.6}})
    found = figure(evaluation, "c_index")
    assert found.low > 0.5
    assert found.controls == {"chance": 0.5, "mean_of_instances": 0.6}
    assert evaluation.items["risk_group"].tolist() == np.where(evaluation.items["risk"] > 0.2, "high", "low").tolist()
    assert evaluation.details["log_rank"]["p"] < 0.05
    assert "log_rank" not in bag_survival("patient", slides.by_patient()).details


def test_results_come_back_from_disk_with_statistics_that_give_the_same_values(tmp_path) -> None:
    slides = predicted(3)
    labels = {"label.a": slides.labels["label"] % 2, "label.b": slides.labels["label"] // 2}
    follow = {"time": slides.values[:, 0] + 1, "event": np.ones(40, int)}
    evaluations = [
        bag_ordinal("ordinal", slides, GRADES),
        bag_multilabel("multilabel", Predicted(slides.values[:, :2], labels, cohort()), ["a", "b"], {"a": 0.4}),
        bag_regression("regression", Predicted(slides.values[:, 0], {"label": slides.values[:, 1]}, cohort()), [0.2]),
        bag_survival("survival", Predicted(slides.values[:, 1], follow, cohort())),
    ]
    write_results(tmp_path, evaluations)
    results = read_results(tmp_path)
    assert len(results.figures) == sum(len(evaluation.figures) for evaluation in evaluations)
    for stored in results.figures:
        items = results.items_of(stored.name)
        again = point(statistic(results.metrics[stored.name], items), len(items))
        assert again == pytest.approx(stored.value, rel=1e-6), stored.name


class TestControls:
    def test_the_mean_of_instances_is_that_of_each_bag(self) -> None:
        random = np.random.default_rng(0)
        tiles = [random.normal(size=(length, 3)).astype(np.float16) for length in (1, 5)]
        bags = [Bag(str(i), t, np.zeros((len(t), 2), np.float32), 256.0, "um", "e@0") for i, t in enumerate(tiles)]
        np.testing.assert_allclose(mean_of_instances(bags), [t.astype(float).mean(axis=0) for t in tiles])

    def test_classes_labels_and_numbers_are_learned_and_unknown_ones_left_out(self) -> None:
        random = np.random.default_rng(0)
        features = random.normal(size=(120, 5))
        truth = (features[:, 0] > 0).astype(int)
        marked = np.where(np.arange(120) < 20, -1, truth)
        train, test = features[:80], features[80:]
        probability = linear_classes(train, marked[:80], test, 2)
        model = LogisticRegression(max_iter=5000)
        kept = features[20:80]
        mean, deviation = kept.mean(axis=0), kept.std(axis=0)
        model.fit((kept - mean) / deviation, truth[20:80])
        np.testing.assert_allclose(probability, model.predict_proba((test - mean) / deviation), atol=1e-6)
        both = linear_labels(train, np.stack([marked, 1 - truth], axis=1)[:80], test)
        np.testing.assert_allclose(both[:, 0], probability[:, 1])
        assert roc_auc_score(1 - truth[80:], both[:, 1]) > 0.95
        number = np.where(np.arange(120) < 20, np.nan, 100 + 7 * features[:, 1])
        guess = linear_number(train, number[:80], test)
        assert r2_score(number[80:], guess) > 0.95

    def test_the_risk_is_the_optimum_of_the_penalised_partial_likelihood(self) -> None:
        """Its gradient, written as a loop over events, vanishes at the found weights."""
        random = np.random.default_rng(0)
        features = random.normal(size=(40, 3))
        time = random.exponential(np.exp(-features[:, 0]))
        event = random.random(40) < 0.7
        scaled = (features - features.mean(axis=0)) / features.std(axis=0)
        risk = linear_risk(features, time, event, features)
        weight = np.linalg.lstsq(scaled, risk, rcond=None)[0]
        gradient = weight.copy()
        for i in np.flatnonzero(event):
            share = np.exp(risk) * (time >= time[i])
            gradient += share @ scaled / share.sum() - scaled[i]
        assert np.abs(gradient).max() < 1e-5
        assert weight[0] > 0.5

    def test_a_control_stands_beside_the_figure_of_the_same_name(self) -> None:
        slides, other = predicted(seed=1), predicted(seed=2)
        control = bag_classification("mean_of_instances", Predicted(other.values, slides.labels, cohort()), TUMOUR)
        evaluation = bag_classification("slide", slides, TUMOUR, controls={control.name: as_control(control)})
        found = figure(evaluation, "macro_auroc").controls["mean_of_instances"]
        assert found == figure(control, "macro_auroc").value


def _metric(evaluation: Evaluation, name: str):
    from core.evaluation.metrics import Metric

    return Metric.from_dict(evaluation.details["metrics"][name])
