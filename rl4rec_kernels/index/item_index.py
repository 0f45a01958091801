"""The embeddings of a data set's items, with what they were made from."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from rl4rec_kernels._utils.arrays import as_array, as_tensor
from rl4rec_kernels._utils.checks import amount, optional_flag, shown, whole_number
from rl4rec_kernels._utils.mapped import check_finite, check_mapped, row_blocks
from rl4rec_kernels.data.item_fields import ItemMetadata, as_text
from rl4rec_kernels.data.raw_ids import RawIds
from rl4rec_kernels.ids import IdList, RaggedIds, check_valid_items, is_sparse
from rl4rec_kernels.index.encoder import Encoder, check_encoder
from rl4rec_kernels.index.files import (
    TABLE_DTYPES,
    check_destination,
    check_table,
    check_valid,
    existing_file,
    index_path,
    metadata_fields,
    read_embeddings,
    read_index,
    write_index,
)
from rl4rec_kernels.index.texts import DEFAULT_FIELDS, item_texts, texts_fingerprint


class ImportOptions(TypedDict, total=False):
    """The options of `ItemIndex.from_embeddings`."""

    ids: IdList | None
    valid: Tensor | None


class ItemIndex:
    """A table of item embeddings, in which the row of an item is its id.

    Create one with `build`, `open`, `from_embeddings` or `import_file`. The constructor checks
    dtypes and shapes, these also check the embeddings.

    Attributes
    ----------
    table : Tensor, shape [N, D]
        float32, float16 or bfloat16.
    valid : Tensor, bool [N]
        Which rows are items. Others, such as row 0 of most data sets, are never ranked.
    origin : dict of str to str
        What it was made from: ``encoder`` and ``metadata`` (fingerprints), ``fields``, and
        ``tokens``, the names of items whose ids are not those of the data set's file. Empty for
        imported embeddings.
    """

    def __init__(self, table: Tensor, valid: Tensor, origin: Mapping[str, str]) -> None:
        check_table("table", table)
        check_valid(valid, table)
        texts = origin.items() if isinstance(origin, Mapping) else ((origin, None),)
        if not all(isinstance(text, str) for pair in texts for text in pair):
            raise TypeError(f"origin must be a mapping of str to str, got {shown(origin)}")
        self.table = table
        self.valid = valid
        self.origin: dict[str, str] = dict(origin)

    def __len__(self) -> int:
        """Return the number of items."""
        return int(self.valid.sum())

    @property
    def num_rows(self) -> int:
        """The number of rows of the table, including those that are not items."""
        return self.table.shape[0]

    @property
    def dim(self) -> int:
        """The number of dimensions of an embedding."""
        return self.table.shape[1]

    @classmethod
    def build(
        cls,
        item_metadata: ItemMetadata,
        encoder: Encoder,
        *,
        fields: Sequence[str] = DEFAULT_FIELDS,
        dtype: torch.dtype = torch.float32,
        show_progress: bool | None = None,
    ) -> "ItemIndex":
        """Encode the items of a data set.

        Parameters
        ----------
        item_metadata : mapping of int to mapping
            Item id to its fields, from `load_item_metadata`.
        encoder : Encoder
            Encodes the items, and later the queries.
        fields : sequence of str
            The fields of an item to encode, in this order; those that it lacks are left out.
        dtype : torch.dtype
            float32, float16 or bfloat16.
        show_progress : bool, optional
            See `Encoder.encode_items`.

        Raises
        ------
        TypeError
            If `fields` is a single string, or `encoder` is not an Encoder.
        ValueError
            If there are no items, none of them has any of the fields, the ids are too sparse for a
            table, or an embedding is not finite.
        """
        show_progress = optional_flag("show_progress", show_progress)
        if not isinstance(dtype, torch.dtype) or dtype not in TABLE_DTYPES:
            raise TypeError(f"dtype must be float32, float16 or bfloat16, got {shown(dtype)}")
        texts = item_texts(item_metadata, fields)
        check_encoder(encoder)
        ids = np.fromiter(texts, dtype=np.int64, count=len(texts))
        # Equal items must tie, but the last bits of a vector depend on its batch, so encode each
        # text once.
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts.values()))}
        vectors = encoder.encode_items(list(row_of), show_progress).cpu().to(dtype)
        index = cls.from_embeddings(vectors[[row_of[text] for text in texts.values()]], ids=ids)
        index.origin = {
            "encoder": encoder.fingerprint,
            "metadata": texts_fingerprint(texts),
            "fields": json.dumps(list(fields)),
        }
        tokens = {item: as_text(fields.get("token")) for item, fields in item_metadata.items()}
        if all(tokens.values()) and any(str(item) != token for item, token in tokens.items()):
            index.origin["tokens"] = json.dumps([tokens[item] for item in sorted(tokens, key=int)])
        return index

    @classmethod
    @torch.inference_mode(False)  # see Encoder: tables may be differentiated
    def from_embeddings(
        cls, embeddings: Tensor, *, ids: IdList | None = None, valid: Tensor | None = None
    ) -> "ItemIndex":
        """Make an index of existing embeddings.

        Parameters
        ----------
        embeddings : Tensor, shape [M, D]
            float32, float16 or bfloat16. Without `ids`, a contiguous tensor is not copied.
        ids : int, shape [M], optional
            The item of each row, for example ``range(1, M + 1)`` if the first row is item 1.
            Default: row i is item i.
        valid : bool, shape [M], optional
            Which rows are items. Default: all but rows of zeros, which no encoder makes; with
            `ids`, all. Without both, row 0 must be zeros, which makes it padding.

        Raises
        ------
        TypeError, ValueError
            If a dtype or shape is wrong, an id is repeated or negative, an embedding is not finite
            (the message names the row), or row 0 is not padding but `ids` and `valid` are missing.
        """
        check_table("embeddings", embeddings)
        check_mapped(embeddings)
        embeddings = embeddings.detach().contiguous()  # otherwise every call would copy it
        if ids is not None:
            embeddings, valid = _scatter(embeddings, as_array("ids", ids), valid)
        elif valid is None:
            valid = torch.cat([block.ne(0).any(1) for _, block in row_blocks(embeddings)])
            if valid[0]:
                raise ValueError(
                    "embeddings: row 0 is not zeros, so it is not padding; if it is an item, "
                    f"pass ids=range(1, {len(valid) + 1}), or pass valid= to say which rows are "
                    "items"
                )
        if not isinstance(valid, Tensor):
            valid = as_tensor("valid", as_array("valid", valid)).to(embeddings.device)
        check_valid(valid, embeddings)
        if not valid.any():
            raise ValueError(
                "embeddings: no row is an item (rows of zeros are not items); pass ids= or valid="
            )
        check_finite("embeddings", embeddings)
        return cls(embeddings, valid, {})

    @classmethod
    @torch.inference_mode(False)
    def import_file(
        cls, path: str | os.PathLike[str], **options: Unpack[ImportOptions]
    ) -> "ItemIndex":
        """Read embeddings made elsewhere, from ``.npy``, ``.pt`` or ``.safetensors``.

        Parameters
        ----------
        path : path
            A NumPy array or a torch tensor [M, D]; a ``.pt`` file may also be a dict with one
            two-dimensional tensor and, as ``ids``, the items of its rows, like a ``.safetensors``
            file. No pickled objects.
        **options
            ``ids`` and ``valid`` of `from_embeddings`. Default: the ids of the file.

        Raises
        ------
        FileNotFoundError, TypeError, ValueError
            If the file does not exist, has another format, or its contents are invalid.
        """
        path = existing_file(path)
        embeddings, ids = read_embeddings(path)
        if ids is not None:
            options.setdefault("ids", ids)
        try:
            return cls.from_embeddings(embeddings, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, replacing an existing one in one step.

        Raises
        ------
        ValueError
            If the name does not end in .safetensors.
        FileNotFoundError
            If the directory does not exist.
        OSError
            If the file cannot be written, for example because the disk is full.
        """
        path = check_destination(path)
        tensors = {"table": self.table.contiguous(), "valid": self.valid.contiguous()}
        write_index(path, tensors, self.origin)

    @classmethod
    @torch.inference_mode(False)
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        encoder: Encoder | None = None,
        item_metadata: ItemMetadata | None = None,
    ) -> "ItemIndex":
        """Open a saved index; its table is mapped into memory, not read.

        Parameters
        ----------
        path : path
            A file written by `save`.
        encoder : Encoder, optional
            Refuse the index if it was built with another encoder.
        item_metadata : mapping, optional
            Refuse the index if it was built from other metadata.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not an index, or was built with another encoder or from other metadata.
        """
        path = index_path(path)
        if encoder is not None:
            check_encoder(encoder)
        if item_metadata is not None and not isinstance(item_metadata, Mapping):
            raise TypeError(f"item_metadata must be a dict, or None, got {shown(item_metadata)}")
        path = existing_file(path)
        table, valid, origin = read_index(path)
        index = cls(table, valid, origin)
        if encoder is not None:
            index.check_encoder(encoder)
        if item_metadata is not None:
            texts = item_texts(item_metadata, metadata_fields(origin, path))
            if texts_fingerprint(texts) != origin["metadata"]:
                raise ValueError(
                    f"{path} was built from other metadata; build it again with ItemIndex.build"
                )
        return index

    def slice(self, part: int, parts: int) -> tuple[Tensor, Tensor]:
        """Return one of several consecutive parts of the rows, for `ShardedTable.from_slice`.

        Nothing is copied, nor read from a mapped file.

        Parameters
        ----------
        part : int
            Which part, from 0.
        parts : int
            The number of parts.

        Returns
        -------
        table : Tensor, shape [rows, D]
            The embeddings of the part; its row 0 is not item 0.
        valid : Tensor, bool [rows]
            Which of them are items.

        Raises
        ------
        TypeError, ValueError
            If `part` is not one of `parts`.
        """
        parts = amount("parts", parts, 1)
        part = whole_number("part", part, 0, parts - 1)
        start, end = (self.num_rows * i // parts for i in (part, part + 1))
        return self.table[start:end], self.valid[start:end]

    def check_encoder(self, encoder: Encoder) -> None:
        """Check that queries of `encoder` can be compared with this table.

        Raises
        ------
        TypeError
            If `encoder` is not an Encoder.
        ValueError
            If the dimensions differ, or the index is known to come from another encoder.
        """
        check_encoder(encoder)
        if encoder.dim != self.dim:
            raise ValueError(
                f"the encoder has {encoder.dim} dimensions but the index {self.dim}; build the "
                "index again with this encoder"
            )
        if self.origin.get("encoder", encoder.fingerprint) != encoder.fingerprint:
            raise ValueError(
                "the index was built with another encoder (other weights, prompts or limits); "
                "build it again with this one"
            )

    def check_items(self, name: str, ids: RaggedIds | np.ndarray) -> None:
        """Check that all ids, rows of them or one per row, are items.

        Raises
        ------
        IndexError
            If one is not in the table, or its row is not an item; the message names it and where
            it is.
        """
        check_valid_items(name, ids, self.valid.numpy())

    @cached_property
    def raw_items(self) -> RawIds:
        """The ids of items as the data set's own file has them.

        Raises
        ------
        ValueError
            If the index is damaged.
        """
        if "tokens" not in self.origin:
            return RawIds()
        try:
            tokens = [str(token) for token in json.loads(self.origin["tokens"])]
            return RawIds(dict(zip(self.valid.nonzero()[:, 0].tolist(), tokens, strict=True)))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"the index's names of items are damaged: {error}") from None

    def info(self) -> dict[str, Any]:
        """Describe the index, for people and as JSON."""
        origin = {name: text for name, text in self.origin.items() if name != "tokens"}
        return {
            "items": len(self),
            "rows": self.num_rows,
            "dim": self.dim,
            "dtype": str(self.table.dtype).removeprefix("torch."),
            "mebibytes": round(self.table.nbytes / 2**20, 1),
            "built from": origin or "imported embeddings",
        }


def _scatter(embeddings: Tensor, ids: np.ndarray, valid: Any) -> tuple[Tensor, Tensor]:
    """Make a table whose row ids[i] is row i of the embeddings, and its mask."""
    if valid is not None:
        raise ValueError("pass ids or valid, not both: rows without an id are not items")
    if ids.dtype.kind not in "iu" or ids.shape != (embeddings.shape[0],):
        raise ValueError(
            f"ids must be [{embeddings.shape[0]}] whole numbers, one per embedding, got "
            f"{ids.dtype} {ids.shape}"
        )
    if ids.min() < 0:
        raise ValueError(f"ids must be at least 0, got {ids.min()}")
    unique, counts = np.unique(ids, return_counts=True)
    if unique.size != ids.size:
        raise ValueError(f"ids has item {unique[counts > 1][0]} twice")
    num_rows = int(ids.max()) + 1
    if is_sparse(num_rows - 1, ids.size):
        raise ValueError(
            f"ids go up to {num_rows - 1} but there are only {ids.size} items, so the table would "
            "be nearly empty; number the items from 1"
        )
    rows = torch.from_numpy(ids.astype(np.int64))
    table = embeddings.new_zeros(num_rows, embeddings.shape[1])
    for start, block in row_blocks(embeddings):
        table[rows[start : start + len(block)]] = block
    is_item = table.new_zeros(num_rows, dtype=torch.bool)
    is_item[rows] = True
    return table, is_item
