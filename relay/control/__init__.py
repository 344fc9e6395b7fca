"""The operator's way in: a Unix socket in the cache folder, and the commands' end of it.

Whoever may open the socket (mode 0600) asks for one thing per connection. Both sides speak frames
(`relay.control.frames`): a JSON object on a line, and sometimes bytes after it.

    → {"control": 1, "do": "backup", "target": "/x", "force": false}
    ← {"alive": true} ...                              the work goes on, every few seconds
    ← {"done": true, "size": 41213952}                 or {"error": "/x exists already"}

    → {"control": 1, "do": "integrity", "quick": false}
    ← {"done": true, "findings": ["row 3 missing from index ..."]}

    → {"control": 1, "do": "rows", "table": "packets"}
    ← {"rows": 512, "first": 1, "last": 512, "bytes": 290304} and the rows ...
    ← {"done": true}

    → {"control": 1, "do": "import"}
    ← {"ready": true}
    → {"bytes": 151040} and packed packets
    ← {"outcomes": "sskx...", "reasons": [...]} ...
    → {"done": true}
    ← {"done": true}

    → {"control": 1, "do": "purge", "key": "…"}
    ← {"done": true, "timestamp_us": 1767225600000000}    null: there was no such packet

What takes long to compute is done by the command's process: the relay only reads rows and sends
them, or verifies and stores what it is sent.
"""
