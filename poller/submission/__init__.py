"""Mail in: what old programs hand over becomes rows. No application need know that there is an outbox.

settings    the `[submission]` section
entry       a message and its envelope become the columns of a row; one INSERT
listener    SMTP on loopback, or with logins: 250 only after COMMIT
arguments   what /usr/sbin/sendmail is told on its command line
"""
