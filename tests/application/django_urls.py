"""The admin, and a view that fails after it has sent its mail."""

from __future__ import annotations

from django.contrib import admin
from django.core.mail import send_mail
from django.http import HttpRequest, HttpResponse
from django.urls import path


def order(request: HttpRequest) -> HttpResponse:
    send_mail("Order", "Thank you", None, ["anna@example.com"])
    if "fail" in request.GET:
        raise RuntimeError("the order failed")
    return HttpResponse("ordered")


urlpatterns = [path("admin/", admin.site.urls), path("order", order)]
