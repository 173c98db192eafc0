"""What `gpu=` asks for: imported only where something asks for a GPU."""

from __future__ import annotations

from modal.exception import InvalidError


def check_gpu(gpu: object, owner: str, *, takes_list: bool = False) -> list[str]:
    """The requests in their canonical form, ``TYPE`` or ``TYPE:COUNT``, or an `InvalidError`."""
    requests = gpu if takes_list and isinstance(gpu, (list, tuple)) else [gpu]
    return [_check(request, owner, takes_list) for request in requests if request is not None]


def _check(request: object, owner: str, takes_list: bool) -> str:
    if not isinstance(request, str):
        raise InvalidError(
            f"`gpu` of {owner} takes a string{', or a list of them' if takes_list else ''}, not `{request!r}`",
            hint='write the type, such as `gpu="H100"`, or `gpu="H100:2"` for two of them',
        )
    kind, colon, count = request.partition(":")
    if colon and not (count.strip().isascii() and count.strip().isdigit() and 0 < int(count) < 1 << 16):
        raise InvalidError(
            f"`gpu={request!r}` of {owner} has no count that can be meant",
            hint=f'write a positive number behind the colon: `gpu="{kind}:2"`',
        )
    if not kind.strip():
        raise InvalidError(f"`gpu={request!r}` of {owner} names no type", hint='write one, or `gpu="any"`')
    known = kind.strip().upper()
    return known if not colon or int(count) == 1 else f"{known}:{int(count)}"
