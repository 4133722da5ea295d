"""Values in Ray's object store, and errors of Ray as fedray's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from fedray.errors import LostError

T = TypeVar("T")


@dataclass(frozen=True)
class RayShared(Generic[T]):
    """A `Shared` value in the object store: a process reads it from its node's shared memory, without a copy."""

    reference: "ray.ObjectRef[T]"

    def get(self) -> T:
        """Return the value. Raises LostError where it was lost with its node or with the process that owns it."""
        return ray_get(self.reference)


@overload
def ray_get(references: "ray.ObjectRef[T]") -> T: ...
@overload
def ray_get(references: "Sequence[ray.ObjectRef[T]]") -> list[T]: ...
def ray_get(references: "ray.ObjectRef[T] | Sequence[ray.ObjectRef[T]]") -> T | list[T]:
    """Return the value of a reference, or of each in a list. Raises LostError where one was lost with its node."""
    try:
        return ray.get(references)
    except (ObjectLostError, RayActorError) as error:
        raise LostError(first_line(error)) from error
    except RayTaskError as error:
        raise lost_error(error) or error from None


def lost_error(error: RayTaskError) -> LostError | None:
    """Return the LostError that caused a remote call to fail, or None if it had another cause."""
    if isinstance(error.cause, LostError):
        return error.cause
    return LostError(first_line(error.cause)) if isinstance(error.cause, ObjectLostError) else None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: Ray's messages have many."""
    return str(error).strip().partition("\n")[0]
