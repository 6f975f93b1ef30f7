"""Losses other than cross-entropy: one in which rare classes weigh more, and one that asks for each class by itself."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax


class WeightedCrossEntropy:
    """Cross-entropy in which what is seen of class k counts w_k times.

        w_k  = N / (K n_k), for n_k of N images in class k of K; so each class weighs as much in all, and 1 on average
        loss = mean over the batch of  sum_k w_k t_k c_k
        c_k  = -(1 - s) log p_k - s mean_j log p_j      what an image of class k costs, with label smoothing s

    t is the target before smoothing: one class, or several where images are mixed. The share s that smoothing spreads
    over all classes is weighed by the class that it comes from: by its own w_j, a rare class would win in every image.

    Args:
        counts: (K,) training images of each class; a class without any has weight 0.
        label_smoothing: the share that the targets, which this is called with, were smoothed by.
    """

    def __init__(self, counts: Tensor, label_smoothing: float = 0.0) -> None:
        weights = counts.sum() / (len(counts) * counts.double())
        self.weights = torch.where(counts > 0, weights, 0.0).float()  # (K,)
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, K) float32, (B, K) smoothed shares -> ()."""
        smoothing = self.label_smoothing
        log_p = log_softmax(logits, dim=1)  # (B, K)
        costs = (smoothing - 1) * log_p - smoothing * log_p.mean(dim=1, keepdim=True)  # (B, K)
        shares = (targets - smoothing / targets.shape[1]) / (1 - smoothing)  # (B, K)
        return (self.weights * shares * costs).sum(dim=1).mean()


class BinaryCrossEntropy:
    """Cross-entropy of K questions with two answers each, whether an image is of class k, in place of one with K.

        loss = mean over the batch and over k of  -t_k log sigmoid(x_k) - (1 - t_k) log(1 - sigmoid(x_k))

    Targets t are shares, mixed and smoothed; with a `threshold` t_k is 1 where it is above it, else 0, so
    that both classes of a mixed image may be there whole. A threshold of 0 is none.

    Source: Wightman et al. 2021, arXiv 2110.00476; the same numbers as timm's class of that name.
    """

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = threshold

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, K) float32, (B, K) shares -> ()."""
        if self.threshold:
            targets = (targets > self.threshold).to(logits.dtype)
        return binary_cross_entropy_with_logits(logits, targets)
