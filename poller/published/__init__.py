"""What domains publish in the DNS about their mail (DKIM keys, SPF, DMARC), judged as receivers judge it.

`findings.examine` asks and judges; each of the others knows one kind of record. Only who asks waits: no message does.
"""
