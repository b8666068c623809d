"""Retrieval with duplicates, ties and chance, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from core.evaluation.cohort import Cohort
from core.evaluation.retrieval import chance_recall, retrieval
from core.types import Evaluation


def _cohort(n: int) -> Cohort:
    return Cohort([f"i{k}" for k in range(n)], [f"p{k}" for k in range(n)], "patient")


def _ranks(evaluation: Evaluation, direction: str) -> list[int]:
    items = evaluation.items
    return items.loc[items["direction"] == direction, "rank"].tolist()


def test_ranks_are_those_worked_by_hand() -> None:
    """Text k of image k scores, for image 0: 0.9, 0.8, 0.1 and so on; rows are images."""
    scores = np.array([[0.9, 0.8, 0.1], [0.95, 0.5, 0.6], [0.2, 0.3, 0.4]])
    evaluation = retrieval(scores, np.eye(3), [0, 1, 2], ["a", "b", "c"], _cohort(3))
    assert _ranks(evaluation, "image_to_text") == [1, 3, 1]
    assert _ranks(evaluation, "text_to_image") == [2, 2, 2]
    values = {f.name: f.value for f in evaluation.figures}
    assert values["retrieval/image_to_text/recall@1"] == pytest.approx(2 / 3)
    assert values["retrieval/text_to_image/recall@1"] == 0
    assert values["retrieval/text_to_image/recall@5"] == 1
    assert values["retrieval/image_to_text/median_rank"] == 1


def test_an_identical_caption_of_another_image_is_a_hit() -> None:
    """Image 0 finds text 1 first, which says the same as its own; image 2 finds text 0, which does not."""
    scores = np.array([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.9, 0.1, 0.5]])
    captions = ["A  gland", "a gland", "stroma"]
    evaluation = retrieval(scores, np.eye(3), [0, 1, 2], captions, _cohort(3))
    assert _ranks(evaluation, "image_to_text") == [1, 1, 2]
    hits = evaluation.items.loc[evaluation.items["direction"] == "image_to_text", "hits"]
    assert hits.tolist() == [2, 2, 1]
    # text 0 asks for the images of either equal caption: 0 and 1 score 0.1, image 2 scores 0.9
    assert _ranks(evaluation, "text_to_image") == [2, 1, 3]


def test_the_same_image_twice_is_a_hit_with_the_captions_of_both() -> None:
    scores = np.array([[0.1, 0.9], [0.1, 0.9]])
    alone = retrieval(scores, np.eye(2), [0, 1], ["a", "b"], _cohort(2))
    same = retrieval(scores, np.eye(2), [0, 1], ["a", "b"], _cohort(2), image_keys=["h", "h"])
    assert _ranks(alone, "image_to_text") == [2, 1]
    assert _ranks(same, "image_to_text") == [1, 1]
    assert _ranks(same, "text_to_image") == [1, 1]


def test_a_model_that_embeds_all_alike_earns_nothing() -> None:
    evaluation = retrieval(np.ones((6, 2)), np.ones((6, 2)), range(6), list("abcdef"), _cohort(6))
    assert _ranks(evaluation, "image_to_text") == [6] * 6
    assert _ranks(evaluation, "text_to_image") == [6] * 6


def test_several_captions_and_images_without_any() -> None:
    """Image 1 has no caption: it is in the gallery of text queries, and asks nothing itself."""
    evaluation = retrieval(np.eye(3), np.eye(3)[[0, 0, 2]], [0, 0, 2], ["a", "b", "c"], _cohort(3))
    items = evaluation.items
    assert items["id"].tolist() == ["i0", "i2", "i0#0", "i0#1", "i2#0"]
    assert items["unit"].tolist() == ["p0", "p2", "p0", "p0", "p2"]
    assert (items["rank"] == 1).all()


def test_chance_is_that_of_a_random_order() -> None:
    """Of 10 items 2 are hits; C(8, 3) / C(10, 3) = 56 / 120 orders have none among the first three."""
    assert chance_recall([2], 10, 3)[0] == pytest.approx(1 - 56 / 120)
    assert chance_recall([1], 10, 1)[0] == pytest.approx(0.1)
    assert chance_recall([1], 4, 10)[0] == 1
    assert chance_recall([9], 10, 2)[0] == 1


def test_chance_agrees_with_random_embeddings() -> None:
    generator = np.random.default_rng(0)
    captions = [f"c{k % 20}" for k in range(200)]
    images, texts = generator.normal(size=(200, 8)), generator.normal(size=(200, 8))
    evaluation = retrieval(images, texts, range(200), captions, _cohort(200))
    figures = {f.name: f for f in evaluation.figures}
    figure = figures["retrieval/image_to_text/recall@5"]
    assert figure.low <= figure.controls["chance"] <= figure.high
    assert figure.controls["chance"] == pytest.approx(chance_recall([10], 200, 5)[0])


def test_blocks_of_queries_change_nothing() -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(600, 4))
    evaluation = retrieval(images, images, range(600), [str(k) for k in range(600)], _cohort(600))
    norms = np.linalg.norm(images, axis=1)
    expected = ((images @ images.T) >= (norms**2)[:, None] - 1e-5).sum(axis=1)
    assert np.mean(np.array(_ranks(evaluation, "image_to_text")) == expected) > 0.99  # float32 against float64
