"""The methods of every retrieval service, local or remote, with or without batching."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rl4rec_kernels.data.raw_ids import RawIds
from rl4rec_kernels.ids import IdLists, TargetIds
from rl4rec_kernels.metrics import RankCounts
from rl4rec_kernels.service.calls import Call, Ranked, check_call


class AsyncRetrievalBackend(ABC):
    """The coroutines of `RetrievalBackend`; a subclass implements `answer_async`."""

    async def calculate_reward_async(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: TargetIds | None = None,
        neg_items: IdLists | None = None,
    ) -> Tensor:
        """Score texts as a coroutine; see `RetrievalBackend.calculate_reward`."""
        call = self._check(texts, dataset_name, targets, neg_items, None, True)
        return await self.answer_async(call)

    async def rank_async(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: TargetIds,
        neg_items: IdLists | None = None,
        histories: IdLists | None = None,
    ) -> RankCounts:
        """Rank targets as a coroutine; see `RetrievalBackend.rank`."""
        call = self._check(texts, dataset_name, targets, neg_items, histories, False)
        return await self.answer_async(call)

    async def rank_with_log_prob_async(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: TargetIds,
        neg_items: IdLists | None = None,
        histories: IdLists | None = None,
        temperature: float = 1.0,
    ) -> Ranked:
        """Rank targets as a coroutine; see `RetrievalBackend.rank_with_log_prob`."""
        ids = targets, neg_items, histories
        return await self.answer_async(
            self._check(texts, dataset_name, *ids, False, True, temperature)
        )

    @abstractmethod
    async def answer_async(self, call: Call) -> Any:
        """Answer a call, see `RetrievalBackend.answer`."""

    def _check(self, *arguments: Any) -> Call:
        return check_call(*arguments)


class RetrievalBackend(AsyncRetrievalBackend):
    """Scores and ranks generated texts; a subclass implements `answer`.

    `RecReward` accepts any of them as ``service``.
    """

    def calculate_reward(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: TargetIds | None = None,
        neg_items: IdLists | None = None,
    ) -> Tensor:
        """Score texts against items.

        Parameters
        ----------
        texts : sequence of str
            B texts.
        dataset_name : str
            Name of the data set.
        targets : B item ids, optional
            Required with `neg_items`; otherwise only checked.
        neg_items : B lists of item ids, a [B, num_negs] array, or RaggedIds, optional
            Negatives, any number per row; -1 is padding.

        Returns
        -------
        Tensor
            float32. With negatives [B, 1 + num_negs]: the target's score in column 0, and -inf at
            the end of rows with fewer negatives than others. Without negatives [B, N]: the score
            of every row of the table, -inf for rows that are not items.

        Raises
        ------
        TypeError, ValueError, IndexError
            If an argument is invalid; the message names it.
        ServiceOverloadedError
            If a service on Ray has no room for the call for too long.
        ServiceUnavailableError
            If a service on Ray died and did not come back in time.
        TimeoutError
            If a service on Ray does not answer in time.
        """
        return self.answer(self._check(texts, dataset_name, targets, neg_items, None, True))

    def rank(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: TargetIds,
        neg_items: IdLists | None = None,
        histories: IdLists | None = None,
    ) -> RankCounts:
        """Count how the competitors of each target score, without a matrix of scores.

        Parameters
        ----------
        texts, dataset_name, neg_items
            As in `calculate_reward`. Without negatives, all items compete.
        targets : B item ids, or lists of ids, or RaggedIds
            With several targets of a text, each competes with the others too.
        histories : B lists of item ids, optional
            Items that do not compete when all others do. A target is never left out.

        Returns
        -------
        RankCounts
            int64, shape [B] each; with several targets per text one for each target, text after
            text.

        Raises
        ------
        Exception
            As `calculate_reward`.
        """
        return self.answer(self._check(texts, dataset_name, targets, neg_items, histories, False))

    def rank_with_log_prob(
        self,
        texts: Sequence[str],
        dataset_name: str,
        targets: TargetIds,
        neg_items: IdLists | None = None,
        histories: IdLists | None = None,
        temperature: float = 1.0,
    ) -> Ranked:
        """Rank as `rank`, and compute each target's log-probability, from one encoding.

        Parameters
        ----------
        texts, dataset_name, targets, neg_items, histories
            As in `rank`.
        temperature : float
            More than 1e-30 and less than 1e30; scores are divided by it.

        Returns
        -------
        Ranked
            ``counts``, those of `rank`, and ``log_probs``, float32 [B]: the log-softmax of the
            target among the same competitors, as of `log_prob_candidates` and `log_prob_catalog`.
            It is minus infinity where the operators' is NaN.

        Raises
        ------
        Exception
            As `calculate_reward`.
        """
        ids = targets, neg_items, histories
        return self.answer(self._check(texts, dataset_name, *ids, False, True, temperature))

    def raw_items(self, dataset_name: str) -> RawIds:
        """Return what turns the ids of a data set's own file into rows of its table.

        Raises
        ------
        ValueError
            If there is no such data set.
        """
        return RawIds()

    @abstractmethod
    def answer(self, call: Call) -> Any:
        """Answer a call.

        With scores if it wants scores, with `Ranked` if it has a temperature, else with
        `RankCounts`.
        """

    async def answer_async(self, call: Call) -> Any:
        """Answer a call in a thread, so that the asyncio loop is not blocked."""
        return await asyncio.to_thread(self.answer, call)
