"""The review page: a local web app on which people answer the queue, server-rendered and without anything from outside.

``app`` holds routes and pages, ``security`` what stands before them, ``views`` how a trace is laid out, ``themes`` the
same for themes, ``text`` how hostile text is shown, ``near_cases`` which cases a trace may repeat, ``publishing`` what
follows an answer, ``server`` the process. Keep out: what follows from answers (``core/reviewing.py``).
"""
