"""The encrypted store against the same model: keys that change, walks that are cut, crashes at any write.

Besides what `test_store_machine` holds any store to: no value lies on the disk that is not sealed with a key in
use, and the keys in use are never more than those that the keyring has.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from storage.engine_memory import MemoryEngine
from storage.engine_sealed import SEALED, SealedEngine, keys_in_use
from storage.errors import EncryptionError
from storage.keyring import Keyring, disused, new_keyring, rotated, without, without_plain
from storage.resealing import Phase
from storage.sealing import key_id_of
from storage.store import Store, StoreOptions
from tests.budget import examples
from tests.properties.test_store_machine import GC_MIN_AGE_MS, MemoryStoreMachine
from tests.storage.replicas import entropy_of


class SealedStoreMachine(MemoryStoreMachine):
    """The store of the model with keys, and the engine below it for crashes."""

    @initialize()
    def open_first(self) -> None:
        self.entropy = entropy_of(b"keys")
        self.keyring = new_keyring(entropy=self.entropy)
        super().open_first()

    def open(self) -> None:
        options = StoreOptions(cache_bytes=4000, gc_min_age_ms=GC_MIN_AGE_MS, keyring=self.keyring)
        engine = self.rig.open()
        self.store = Store(engine, options, now_ms=self.now_ms, entropy=self.entropy)

    @property
    def sealed(self) -> SealedEngine:
        assert isinstance(self.store.engine, SealedEngine)
        return self.store.engine

    @property
    def engine(self) -> Any:
        assert isinstance(self.sealed.inner, MemoryEngine)
        return self.sealed.inner

    def between_ticks(self) -> None:
        self.commit()

    def adopt(self, keyring: Keyring) -> None:
        self.between_ticks()
        writes = self.engine.writes
        self.store.adopt_keys(keyring)
        self.keyring = keyring
        if self.engine.writes != writes:
            self.images = [self.committed]  # it was synced

    @precondition(lambda self: hasattr(self, "store") and len(self.keyring.keys) < 4)
    @rule()
    def rotate(self) -> None:
        self.adopt(rotated(self.keyring, entropy=self.entropy))

    @precondition(lambda self: hasattr(self, "store"))
    @rule()
    def stop_encrypting(self) -> None:
        self.adopt(disused(self.keyring))

    @precondition(lambda self: hasattr(self, "store"))
    @rule()
    def encrypt_again(self) -> None:
        self.adopt(attrs.evolve(self.keyring, current=self.keyring.keys[-1].id))

    @precondition(lambda self: hasattr(self, "store"))
    @rule()
    def remove_a_key(self) -> None:
        """A key may go if it is not in use, and never otherwise."""
        self.between_ticks()
        last = self.keyring.keys[-1].id
        if len(self.keyring.keys) == 1 or last == self.keyring.current:
            return
        fewer = without(self.keyring, last)
        if last in self.sealed.in_use:
            with pytest.raises(EncryptionError):
                self.store.adopt_keys(fewer)
        else:
            self.adopt(fewer)

    @precondition(lambda self: hasattr(self, "store") and self.keyring.plain)
    @rule()
    def refuse_plain_values(self) -> None:
        self.between_ticks()
        if self.keyring.current is None:
            return
        if None in self.sealed.in_use:
            with pytest.raises(EncryptionError):
                self.store.adopt_keys(without_plain(self.keyring))
        else:
            self.adopt(without_plain(self.keyring))

    @precondition(lambda self: hasattr(self, "store"))
    @rule(rows=st.integers(1, 5))
    def walk(self, rows: int) -> None:
        self.between_ticks()
        writes = self.engine.writes
        self.store.reseal(rows)
        if self.engine.writes != writes:
            self.images.append(self.committed)

    @precondition(lambda self: hasattr(self, "store"))
    @rule()
    def walk_to_the_end(self) -> None:
        walk = self.store.resealer
        assert walk is not None
        self.between_ticks()
        while self.store.reseal(50):
            pass
        if walk.phase is Phase.COMPACTING:
            walk.compact()
            assert walk.finish()
        self.images = [self.committed]
        self.engine.sync()
        assert walk.phase is Phase.IDLE
        assert set(self.sealed.in_use) == {self.keyring.current}

    @invariant()
    def what_lies_on_the_disk_is_sealed(self) -> None:
        if not hasattr(self, "store"):
            return
        allowed = set(keys_in_use(self.engine))
        assert allowed <= {key.id for key in self.keyring.keys} | ({None} if self.keyring.plain else set())
        found = {key_id_of(value) for family in SEALED for _, value in self.engine.iterate(family)}
        assert found <= allowed


def test_the_encrypted_store_equals_the_model() -> None:
    run_state_machine_as_test(
        SealedStoreMachine,
        settings=settings(
            max_examples=examples(75),
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
