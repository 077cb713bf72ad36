"""Messages as they travel: the types of their values, and session reports read from them.

Owns validation of bytes that enter (pydantic) and the words of its errors. Does not own task names (`tasks`) or rules
(`domain`). It lies below the services, for a report is read again when it is released from quarantine or imported.
"""
